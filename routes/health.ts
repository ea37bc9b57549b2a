import type { Handler } from "hono";
import type { Services } from "./services.ts";

/** A step that takes longer than this hangs. */
const STALLED_MS = 30_000;

/** `GET /livez`: the process runs. */
export function livez(): Handler {
  return (c) => c.json({ status: "alive" });
}

/** `GET /readyz`: requests are welcome, or why they are not. */
export function readyz({ engine, build }: Pick<Services, "engine" | "build">): Handler {
  return (c) => {
    const facts = { engine: build.engine, kernels: build.kernels };
    if (engine.stopping) return c.json({ status: "draining", ...facts }, 503);
    if (engine.stepMs > STALLED_MS) return c.json({ status: "stalled", ...facts }, 503);
    return c.json({ status: "ready", ...facts });
  };
}

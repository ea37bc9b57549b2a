import type { Handler } from "hono";
import type { Services } from "./services.ts";

/** `GET /livez`: the process runs. */
export function livez(): Handler {
  return (c) => c.json({ status: "alive" });
}

/** `GET /readyz`: requests are welcome, or why they are not. */
export function readyz({ engine, build }: Pick<Services, "engine" | "build">): Handler {
  return (c) => {
    const facts = { engine: build.engine, kernels: build.kernels, device: build.device.device };
    const { state } = engine;
    return c.json({ status: state, ...facts }, state === "ready" ? 200 : 503);
  };
}

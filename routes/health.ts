import type { Handler } from "hono";
import { NOT_READY } from "../engine/mod.ts";
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
    if (state === "ready") return c.json({ status: state, ...facts });
    return c.json({ status: state, reason: NOT_READY[state], ...facts }, 503);
  };
}

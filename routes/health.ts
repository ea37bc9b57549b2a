import { NOT_READY } from "../engine/mod.ts";
import { tells } from "./operation.ts";
import type { Route } from "./route.ts";

export const livez: Route = {
  method: "GET",
  path: "/livez",
  open: true,
  operation: tells("The process runs"),
  handler: () => (c) => c.json({ status: "alive" }),
};

export const readyz: Route = {
  method: "GET",
  path: "/readyz",
  open: true,
  operation: {
    summary: "Requests are welcome; 503 with a reason while they are not",
    responses: {
      ...tells("Requests are welcome").responses,
      503: {
        description: "Not now: status and reason say why",
        content: { "application/json": { schema: { type: "object" } } },
      },
    },
  },
  handler: ({ engine, build }) => (c) => {
    const facts = { engine: build.engine, kernels: build.kernels, device: build.device.device };
    const { state } = engine;
    if (state === "ready") return c.json({ status: state, ...facts });
    return c.json({ status: state, reason: NOT_READY[state], ...facts }, 503);
  },
};

import type { Handler } from "hono";
import { openMetrics } from "./open_metrics.ts";
import type { Services } from "./services.ts";

/** `GET /metrics`: Prometheus' text format, or OpenMetrics where it is asked for. */
export function metrics({ registry }: Pick<Services, "registry">): Handler {
  return async (c) => {
    const text = await registry.metrics();
    if (!c.req.header("Accept")?.includes("application/openmetrics-text")) {
      return c.body(text, 200, { "Content-Type": "text/plain; version=0.0.4; charset=utf-8" });
    }
    return c.body(openMetrics(text), 200, {
      "Content-Type": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    });
  };
}

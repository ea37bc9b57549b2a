import { openMetrics } from "./open_metrics.ts";
import { tells } from "./operation.ts";
import type { Route } from "./route.ts";

/** Prometheus' text format, or OpenMetrics where it is asked for. */
export const metrics: Route = {
  method: "GET",
  path: "/metrics",
  operation: tells("Metrics for Prometheus, or OpenMetrics if asked for", "text/plain"),
  handler: ({ registry }) => async (c) => {
    const text = await registry.metrics();
    if (!wantsOpenMetrics(c.req.header("Accept") ?? "")) {
      return c.body(text, 200, { "Content-Type": "text/plain; version=0.0.4; charset=utf-8" });
    }
    return c.body(openMetrics(text), 200, {
      "Content-Type": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    });
  },
};

/** Whether a header `Accept` names OpenMetrics, and not with the weight 0, which refuses it. */
function wantsOpenMetrics(accept: string): boolean {
  return accept.toLowerCase().split(",").some((one) => {
    const [type, ...parameters] = one.split(";").map((part) => part.trim());
    return type === "application/openmetrics-text" && !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter));
  });
}

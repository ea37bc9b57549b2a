import { Hono } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { refusalForBody, RequestError } from "./errors.ts";
import { docs } from "./docs.ts";
import { explainError } from "./explain_error.ts";
import { generate } from "./generate.ts";
import { livez, readyz } from "./health.ts";
import { info } from "./info.ts";
import { metrics } from "./metrics.ts";
import { models, oneModel } from "./models.ts";
import { chatCompletions } from "./openai/chat_completions.ts";
import { completions } from "./openai/completions.ts";
import { openapi } from "./openapi.ts";
import { pageRoutes } from "./page/page.ts";
import { guard } from "./security/guard.ts";
import { recorded, type RecordedEnv } from "./request_record.ts";
import type { Services } from "./services.ts";

/** All routes of the service. */
export function createApp(services: Services): Hono<RecordedEnv> {
  const app = new Hono<RecordedEnv>();
  // Before the guard: whom it refuses is recorded too.
  app.on("POST", ["/generate", "/v1/completions", "/v1/chat/completions"], recorded(services));
  app.use(guard(services));
  app.post("/generate", generate(services));
  app.post("/v1/completions", completions(services));
  app.post("/v1/chat/completions", chatCompletions(services));
  app.get("/v1/models", models(services));
  app.get("/v1/models/:model", oneModel(services));
  app.get("/info", info(services));
  app.get("/metrics", metrics(services));
  app.get("/livez", livez());
  app.get("/readyz", readyz(services));

  app.get("/openapi.json", openapi(services));
  app.get("/docs", docs(services));
  for (const { path, handler } of pageRoutes()) app.get(path, handler);

  app.notFound((c) => {
    const here = app.routes.filter(({ method, path }) => method !== "ALL" && matches(path, c.req.path));
    // Whatever answers GET answers HEAD.
    const methods = new Set(here.flatMap(({ method }) => method === "GET" ? ["GET", "HEAD"] : [method]));
    if (methods.size === 0) throw new RequestError(404, `There is no ${c.req.path}`);
    c.header("Allow", [...methods].join(", "));
    throw new RequestError(405, `${c.req.path} takes ${[...methods].join(", ")}`);
  });
  app.onError((thrown, c) => {
    const error = refusalForBody(c.req.raw.signal) ?? thrown;
    const { record } = c.var;
    const { status, outcome, body, retryAfterSeconds } = explainError(services, error, record);
    if (record === undefined) {
      services.refusals.note({ status, outcome, message: body.error.message, method: c.req.method, path: c.req.path });
    }
    if (retryAfterSeconds !== null) c.header("Retry-After", String(retryAfterSeconds));
    // Hono's list of codes lacks 499, which nobody reads.
    return c.json(body, status as ContentfulStatusCode);
  });
  return app;
}

/** Whether a route such as `/v1/models/:model` is what a path asks for. */
function matches(route: string, path: string): boolean {
  const [parts, asked] = [route.split("/"), path.split("/")];
  return parts.length === asked.length &&
    parts.every((part, i) => part.startsWith(":") ? asked[i] !== "" : part === asked[i]);
}

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
import { openapi, openApiDocument } from "./openapi.ts";
import { pageRoutes } from "./page/page.ts";
import { guard } from "./security/guard.ts";
import { recorded, type RecordedEnv } from "./request_record.ts";
import { matches, type Route } from "./route.ts";
import type { Services } from "./services.ts";

/** All routes of the service, in the order in which they are described. */
export const ROUTES: readonly Route[] = [
  generate,
  completions,
  chatCompletions,
  models,
  oneModel,
  info,
  metrics,
  livez,
  readyz,
  openapi,
  docs,
  ...pageRoutes,
];

/** The service as an app of all routes. */
export function createApp(services: Services): Hono<RecordedEnv> {
  const app = new Hono<RecordedEnv>();
  // Before the guard: whom it refuses is recorded too.
  for (const route of ROUTES) if (route.recorded) app.on(route.method, route.path, recorded(services));
  app.use(guard(services, ROUTES));
  const document = openApiDocument(services.build.version, ROUTES);
  for (const { method, path, handler } of ROUTES) app.on(method, path, handler(services, document));

  app.notFound((c) => {
    const here = ROUTES.filter(({ path }) => matches(path, c.req.path));
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

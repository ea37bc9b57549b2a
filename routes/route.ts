import type { Handler } from "hono";
import type { z } from "zod";
import type { Json } from "./operation.ts";
import type { RecordedEnv } from "./request_record.ts";
import type { Services } from "./services.ts";

/** All about one route. Its file exports it, and the table in `app.ts` lists it. */
export interface Route {
  readonly method: "GET" | "POST";
  /** As Hono has it, such as `/v1/models/:model`. */
  readonly path: string;
  /** It needs no key: it tells nothing about requests and costs nothing. */
  readonly open?: true;
  /** Each of its requests leaves a line in the log, and the handler says in `c.var.record` what came of it. */
  readonly recorded?: true;
  /** What OpenAPI says of it; `null` for what a page loads by itself, which is not described. */
  readonly operation: Json | null;
  /** The schemas that the operation refers to, besides `ErrorBody`. Names of what callers send end in `Body`. */
  readonly schemas?: Readonly<Record<string, z.ZodType>>;
  /** Makes the handler; the document is OpenAPI's, of all routes. */
  readonly handler: (services: Services, document: Json) => Handler<RecordedEnv>;
}

/** Whether a route's path such as `/v1/models/:model` is what a path asks for. */
export function matches(route: string, path: string): boolean {
  const [parts, asked] = [route.split("/"), path.split("/")];
  return parts.length === asked.length &&
    parts.every((part, i) => part.startsWith(":") ? asked[i] !== "" : part === asked[i]);
}

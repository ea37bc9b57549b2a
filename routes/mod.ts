/** The HTTP side of the service. */
export { createApp } from "./app.ts";
export { type HttpServer, listen } from "./listen.ts";
export { DEFAULT_JSON_LIMITS } from "./read_json.ts";
export type { Build, ServedModel, Services } from "./services.ts";

/** The HTTP side of the service. */
export { BodyRoom } from "./body_room.ts";
export { createApp } from "./app.ts";
export { DEFAULT_CONNECTION_LIMITS, type HttpServer, listen } from "./listen.ts";
export { DEFAULT_JSON_LIMITS } from "./read_json.ts";
export { Refusals } from "./refusals.ts";
export { ApiKeys, readKeys } from "./security/api_keys.ts";
export { checkBinding, isLoopback } from "./security/binding.ts";
export type { Security } from "./security/security.ts";
export type { Build, ServedModel, Services } from "./services.ts";
export { warmUp } from "./warm_up.ts";

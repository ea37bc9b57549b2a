/** The HTTP side of the service. */
export { createApp } from "./app.ts";
export { type HttpServer, listen } from "./listen.ts";
export type { Build, ServedModel, Services } from "./services.ts";

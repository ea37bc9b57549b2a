import type { Context, MiddlewareHandler } from "hono";
import { RequestError } from "../errors.ts";
import { matches, type Route } from "../route.ts";
import type { Services } from "../services.ts";

/** What a browser loads of the page. Here it learns without a key what there is not, too. */
const OPEN_FOLDER = "/page/";
/** A probe comes with an address of the moment as its host. */
const PROBES = new Set(["/livez", "/readyz"]);

const LOOPBACK_HOST = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;

const EXPOSED = "X-Pruning-Rate, X-Predicted-Ms, Retry-After";

/**
 * Lets a request pass, or refuses it: by its host (403), by the page that sends it (403), or for want of a key (401).
 * Answers to CORS preflights, which come without a key.
 */
export function guard({ security }: Pick<Services, "security">, routes: readonly Route[]): MiddlewareHandler {
  return async function guard(c, next) {
    c.header("X-Content-Type-Options", "nosniff");
    c.header("Referrer-Policy", "no-referrer");
    const { path } = c.req;
    if (!PROBES.has(path)) checkHost(c.req.header("Host"), security.hosts);
    const preflight = allowOrigin(c, security.origins);
    if (preflight !== null) return preflight;
    const open = isOpen(path, routes) || path.startsWith(OPEN_FOLDER) ||
      (path === "/metrics" && security.metricsWithoutKey);
    if (!open && security.keys?.accept(c.req.header("Authorization")) === false) {
      c.header("WWW-Authenticate", 'Bearer realm="espalier"');
      throw new RequestError(401, "An API key is needed: Authorization: Bearer <key>");
    }
    await next();
  };
}

/** Whether a path needs no key, whatever the method: where it has several routes, all of them are open. */
function isOpen(path: string, routes: readonly Route[]): boolean {
  const here = routes.filter((route) => matches(route.path, path));
  return here.length > 0 && here.every(({ open }) => open);
}

function checkHost(host: string | undefined, hosts: readonly string[] | null): void {
  if (hosts === null) return;
  const name = /^(\[[0-9a-f:.]+\]|[^:\s]+)(:\d{1,5})?$/i.exec(host ?? "")?.[1]?.toLowerCase();
  if (name !== undefined && (LOOPBACK_HOST.test(name) || hosts.includes(name))) return;
  throw new RequestError(403, "The host is not one of this service's; see --allowed-hosts", "Host");
}

/** The answer to a preflight; `null` for all other requests that may go on. */
function allowOrigin(c: Context, origins: readonly string[]): Response | null {
  const origin = c.req.header("Origin");
  if (origin === undefined) return null;
  c.header("Vary", "Origin");
  const host = c.req.header("Host");
  if (host !== undefined && (origin === `http://${host}` || origin === `https://${host}`)) return null;
  if (!origins.includes(origin)) {
    throw new RequestError(403, "The origin may not call this service; see --cors-origins", "Origin");
  }
  c.header("Access-Control-Allow-Origin", origin);
  c.header("Access-Control-Expose-Headers", EXPOSED);
  if (c.req.method !== "OPTIONS" || c.req.header("Access-Control-Request-Method") === undefined) return null;
  const headers = c.req.header("Access-Control-Request-Headers") ?? "";
  if (/^[\w, -]{1,1000}$/.test(headers)) c.header("Access-Control-Allow-Headers", headers);
  c.header("Access-Control-Allow-Methods", "GET, POST");
  c.header("Access-Control-Max-Age", "600");
  return c.body(null, 204);
}

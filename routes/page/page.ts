import { tells } from "../operation.ts";
import type { Route } from "../route.ts";
import icon from "./icon.svg" with { type: "text" };
import index from "./index.html" with { type: "text" };
import program from "./page.js" with { type: "text" };
import style from "./style.css" with { type: "text" };

/** A page may load and ask nothing but this service, and be framed by nobody. */
export const PAGE_HEADERS: Readonly<Record<string, string>> = {
  "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-cache",
};

/** Files of the page by path. There are no others: no path of a request is one of the disk's. */
const FILES: Readonly<Record<string, { readonly text: string; readonly type: string }>> = {
  "/": { text: index, type: "text/html; charset=utf-8" },
  "/page/page.js": { text: program, type: "text/javascript; charset=utf-8" },
  "/page/style.css": { text: style, type: "text/css; charset=utf-8" },
  "/page/icon.svg": { text: icon, type: "image/svg+xml" },
};

/** The page at `/`, and what it loads. */
export const pageRoutes: readonly Route[] = Object.entries(FILES).map(([path, { text, type }]) => ({
  method: "GET",
  path,
  open: true,
  operation: path === "/" ? tells("A page to try the model", "text/html") : null,
  handler: () => (c) => c.body(text, 200, { ...PAGE_HEADERS, "Content-Type": type }),
}));

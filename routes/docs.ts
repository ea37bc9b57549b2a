import { html, raw } from "hono/html";
import { tells } from "./operation.ts";
import { PAGE_HEADERS } from "./page/page.ts";
import type { Route } from "./route.ts";

// deno-lint-ignore no-explicit-any -- it walks a document of many shapes
type Any = any;
type Html = ReturnType<typeof html>;

/** The OpenAPI document as a page, without a script. */
export const docs: Route = {
  method: "GET",
  path: "/docs",
  open: true,
  operation: tells("This document to read", "text/html"),
  handler(_services, document) {
    const page = docsPage(document);
    return async (c) => c.html(await page, 200, PAGE_HEADERS);
  },
};

/** Renders the document's operations and the bodies that they take. */
function docsPage(document: Any): Html {
  const operations = Object.entries<Any>(document.paths).flatMap(([path, methods]) =>
    Object.entries<Any>(methods).map(([method, operation]) => ({ path, method, operation }))
  );
  return html`
    <!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>${document.info.title} ${document.info.version}: HTTP interface</title>
        <link rel="icon" href="/page/icon.svg">
        <link rel="stylesheet" href="/page/style.css">
      </head>
      <body>
        <a class="skip" href="#content">Skip to the content</a>
        <header class="top">
          <div>
            <h1><a href="/">Espalier</a></h1>
            <p>HTTP interface, version ${document.info.version}</p>
          </div>
          <nav aria-label="Pages"><a href="/">Try it</a> <a href="/openapi.json">OpenAPI</a></nav>
        </header>
        <main id="content" class="docs">
    <p>${document.info.description}</p>
    <ul class="contents">${operations.map(({ path, method }) =>
      html`<li><a href="#${anchor(method, path)}"><code>${method.toUpperCase()} ${path}</code></a></li>`
    )}</ul>
    ${operations.map((one) => operationSection(one, document))}
        </main>
      </body>
    </html>
  `;
}

function operationSection(
  { path, method, operation }: { path: string; method: string; operation: Any },
  document: Any,
): Html {
  const body = operation.requestBody?.content["application/json"].schema.$ref;
  const answer = operation.responses[200].content["application/json"]?.schema.$ref;
  return html`<section class="card" id="${anchor(method, path)}">
<h2><code>${method.toUpperCase()} ${path}</code></h2>
<p>${operation.summary}.${operation.security?.length === 0 ? " Needs no key." : ""}</p>
${
    operation.parameters === undefined
      ? ""
      : html`<h3>${operation.parameters[0].in === "path" ? "Path" : "Headers"}</h3>${
        fieldTable(
          operation.parameters.map((
            one: Any,
          ) => [one.name, { ...one.schema, description: one.description }, one.required]),
        )
      }`
  }
${body === undefined ? "" : html`<h3>Body</h3>${schemaTable(resolve(body, document))}`}
${answer === undefined ? "" : html`<h3>Answer</h3>${schemaTable(resolve(answer, document))}`}
<h3>Status</h3>
<dl class="statuses">${
    Object.entries<Any>(operation.responses).map(([status, { description }]) =>
      html`
        <div>
          <dt>${status}</dt>
          <dd>${description}</dd>
        </div>
      `
    )
  }</dl>
</section>`;
}

function schemaTable(schema: Any): Html {
  const required = new Set<string>(schema.required ?? []);
  return fieldTable(Object.entries<Any>(schema.properties).map(([name, field]) => [name, field, required.has(name)]));
}

function fieldTable(fields: readonly [string, Any, boolean][]): Html {
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Fields">
      <table>
        <thead>
          <tr>
            <th scope="col">Field</th>
            <th scope="col">Type</th>
            <th scope="col">Means</th>
          </tr>
        </thead>
        <tbody>${fields.map(([name, field, required]) =>
          html`
            <tr>
              <th scope="row"><code>${name}</code>${required ? raw(" <small>needed</small>") : ""}</th>
              <td>${typeOf(field)}</td>
              <td>${meaningOf(field)}</td>
            </tr>
          `
        )}</tbody>
      </table>
    </div>
  `;
}

/** A type in a few words, with its bounds. */
function typeOf(field: Any): string {
  if (field.anyOf !== undefined) {
    return [...new Set<string>(field.anyOf.map(typeOf).filter((type: string) => type !== "null"))].join(" or ");
  }
  if (field.const !== undefined) return JSON.stringify(field.const);
  if (field.enum !== undefined) return field.enum.map((one: unknown) => JSON.stringify(one)).join(", ");
  if (field.type === "array") {
    const item = field.prefixItems?.[0] ?? field.items;
    return `list of ${item === undefined ? "values" : typeOf(item)}${field.maxItems === 1 ? " (one)" : ""}`;
  }
  if (field.type === "object") return "object";
  const { minimum, maximum } = field;
  const huge = Number.MAX_SAFE_INTEGER;
  const bounds = minimum !== undefined && maximum !== undefined && maximum < huge ? ` ${minimum} to ${maximum}` : "";
  return `${field.type}${bounds}`;
}

function meaningOf(field: Any): string {
  const fallback = field.default === undefined ? "" : `Default ${JSON.stringify(field.default)}`;
  return [field.description, fallback].filter(Boolean).join(". ");
}

function resolve(reference: string, document: Any): Any {
  return document.components.schemas[reference.split("/").at(-1)!];
}

function anchor(method: string, path: string): string {
  return `${method}${path.replaceAll(/[^a-z]+/g, "-")}`;
}

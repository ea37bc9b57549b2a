import { z } from "zod";
import { ErrorBody } from "./answer_schemas.ts";
import { type Json, tells } from "./operation.ts";
import type { Route } from "./route.ts";

export const openapi: Route = {
  method: "GET",
  path: "/openapi.json",
  open: true,
  operation: tells("This document"),
  handler: (_services, document) => (c) => c.json(document),
};

/**
 * The HTTP interface as an OpenAPI document. Bodies are the schemas that validate them.
 *
 * @param version Of the service.
 * @see https://spec.openapis.org/oas/v3.1.1.html
 */
export function openApiDocument(version: string, routes: readonly Route[]): Json {
  return {
    openapi: "3.1.1",
    info: {
      title: "Espalier",
      version,
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
      description: "One compressed language model, served at the pruning rate that each request needs. " +
        "Fields that a body does not list are refused.",
    },
    security: [{ apiKey: [] }],
    paths: pathsOf(routes),
    components: {
      schemas: schemasOf(routes),
      securitySchemes: {
        apiKey: { type: "http", scheme: "bearer", description: "Only if the service was started with keys" },
      },
    },
  };
}

/** Operations by path and method. */
function pathsOf(routes: readonly Route[]): Json {
  const paths: Record<string, Record<string, Json>> = {};
  for (const { method, path, open, operation } of routes) {
    if (operation === null) continue;
    const methods = paths[path.replaceAll(/:(\w+)/g, "{$1}")] ??= {};
    methods[method.toLowerCase()] = open ? { ...operation, security: [] } : operation;
  }
  return paths;
}

function schemasOf(routes: readonly Route[]): Json {
  const schemas = [
    ...routes.flatMap(({ schemas }) => Object.entries(schemas ?? {})),
    ["ErrorBody", ErrorBody] as const,
  ];
  return Object.fromEntries(schemas.map(([name, schema]) => [name, schemaOf(schema, name.endsWith("Body"))]));
}

function schemaOf(schema: z.ZodType, isInput: boolean): Json {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: isInput ? "input" : "output" });
  return rest;
}

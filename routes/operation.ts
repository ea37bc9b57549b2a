/** A part of the OpenAPI document that is written by hand. */
export type Json = Readonly<Record<string, unknown>>;

/** What each status means, wherever it comes from. */
const REFUSALS: Readonly<Record<number, string>> = {
  400: "The body is no JSON, or a field is wrong; param names it",
  401: "An API key is needed",
  403: "The host or the page that asks is not allowed",
  404: "There is no such path, or no such model",
  405: "The path takes another method",
  408: "The request took too long to arrive",
  413: "The body or the prompt is too long",
  415: "The body is of another type, or compressed",
  417: "The request expects what we do not know",
  422: "The rate is not prepared",
  429:
    "The queue is full, other requests stand in the way of the budget, or no rate meets it and on_miss is reject; see " +
    "Retry-After",
  431: "The headers are too long, or too many",
  500: "The service failed",
  503: "The service is stopping, or not ready",
};

/** The operation of a route that tells something. What it tells is all that there is to say of its answer too. */
export function tells(summary: string, type = "application/json"): Json & { readonly responses: Json } {
  const schema = { type: type === "application/json" ? "object" : "string" };
  return {
    summary,
    responses: { 200: { description: summary, content: { [type]: { schema } } }, ...refusals(401, 403) },
  };
}

interface Generation {
  readonly summary: string;
  readonly parameters?: readonly Json[];
  /** Name of the body's schema. */
  readonly body: string;
  readonly answer: {
    readonly description: string;
    /** Of an answer that is no stream. */
    readonly schema: Json;
  };
}

/** The operation of a route that generates. */
export function generates({ summary, parameters, body, answer }: Generation): Json {
  return {
    summary,
    ...(parameters && { parameters }),
    requestBody: { required: true, content: { "application/json": { schema: reference(body) } } },
    responses: {
      200: {
        headers: {
          "X-Pruning-Rate": { schema: { type: "number" }, description: "The rate that runs" },
          "X-Predicted-Ms": { schema: { type: "number" }, description: "Predicted time until the last token" },
        },
        description: answer.description,
        content: {
          "application/json": { schema: answer.schema },
          "text/event-stream": { schema: { type: "string" } },
        },
      },
      ...refusals(400, 401, 403, 404, 408, 413, 415, 417, 422, 429, 431, 500, 503),
    },
  };
}

/** Responses of these statuses, all of one shape. */
export function refusals(...statuses: readonly number[]): Json {
  const content = { "application/json": { schema: reference("ErrorBody") } };
  return Object.fromEntries(statuses.map((status) => [status, { description: REFUSALS[status], content }]));
}

/** A schema by its name. */
export function reference(name: string): Json {
  return { $ref: `#/components/schemas/${name}` };
}

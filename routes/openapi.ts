import type { Handler } from "hono";
import { z } from "zod";
import { ChatBody, CompletionBody } from "./openai/schemas.ts";
import { ErrorBody, GenerateAnswer } from "./answer_schemas.ts";
import { GenerateBody } from "./schemas.ts";
import type { Services } from "./services.ts";

/** A part of the description that is written here by hand. */
type Json = Readonly<Record<string, unknown>>;

const SCHEMAS = { GenerateBody, GenerateAnswer, CompletionBody, ChatBody, ErrorBody };

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
  431: "The headers are too long",
  500: "The service failed",
  503: "The service is stopping, or not ready",
};

/**
 * The HTTP interface as an OpenAPI document. Bodies are the schemas that validate them.
 *
 * @param version Of the service.
 * @see https://spec.openapis.org/oas/v3.1.1.html
 */
export function openApiDocument(version: string): Json {
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
    paths: {
      "/generate": { post: generates("Continues a prompt", "GenerateBody", generateAnswers()) },
      "/v1/completions": {
        post: generates(
          "Continues a prompt, as OpenAI has it",
          "CompletionBody",
          openAiAnswers("text_completion"),
          true,
        ),
      },
      "/v1/chat/completions": {
        post: generates(
          "Answers a conversation, as OpenAI has it",
          "ChatBody",
          openAiAnswers("chat.completion, or chat.completion.chunk in a stream"),
          true,
        ),
      },
      "/v1/models": { get: tells("The model, and the model at each rate: name@rate pins it") },
      "/v1/models/{model}": { get: aboutOneModel() },
      "/info": { get: tells("The model at each rate, what it costs now, and what runs it") },
      "/metrics": { get: tells("Metrics for Prometheus, or OpenMetrics if asked for", "text/plain") },
      "/livez": { get: open(tells("The process runs")) },
      "/readyz": { get: open(readiness()) },
      "/openapi.json": { get: open(tells("This document")) },
      "/docs": { get: open(tells("This document to read", "text/html")) },
      "/": { get: open(tells("A page to try the model", "text/html")) },
    },
    components: {
      schemas: Object.fromEntries(
        Object.entries(SCHEMAS).map(([name, schema]) => [name, schemaOf(schema, name.endsWith("Body"))]),
      ),
      securitySchemes: {
        apiKey: { type: "http", scheme: "bearer", description: "Only if the service was started with keys" },
      },
    },
  };
}

/** `GET /openapi.json` */
export function openapi({ build }: Pick<Services, "build">): Handler {
  const document = openApiDocument(build.version);
  return (c) => c.json(document);
}

function schemaOf(schema: z.ZodType, isInput: boolean): Json {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: isInput ? "input" : "output" });
  return rest;
}

const reference = (name: string) => ({ $ref: `#/components/schemas/${name}` });

function generates(summary: string, body: string, answers: Json, withHeaders = false): Json {
  const header = (name: string, field: string) => ({
    name,
    in: "header",
    schema: { type: "number" },
    description: `The same as the field ${field}`,
  });
  return {
    summary,
    ...(withHeaders && {
      parameters: [
        header("X-Latency-Budget-Ms", "latency_budget_ms"),
        header("X-Max-Pruning-Rate", "max_pruning_rate"),
        header("X-Pruning-Rate", "pruning_rate"),
      ],
    }),
    requestBody: { required: true, content: { "application/json": { schema: reference(body) } } },
    responses: {
      200: {
        headers: {
          "X-Pruning-Rate": { schema: { type: "number" }, description: "The rate that runs" },
          "X-Predicted-Ms": { schema: { type: "number" }, description: "Predicted time until the last token" },
        },
        ...answers,
      },
      ...refusals(400, 401, 403, 404, 408, 413, 415, 417, 422, 429, 431, 500, 503),
    },
  };
}

function generateAnswers(): Json {
  return {
    description: "The answer. With stream: events start, token and end, of which end is the answer without its text; " +
      "or error",
    content: {
      "application/json": { schema: reference("GenerateAnswer") },
      "text/event-stream": { schema: { type: "string" } },
    },
  };
}

function openAiAnswers(object: string): Json {
  return {
    description: `OpenAI's ${object}, and in the object espalier what /generate says of rate, budget and times. ` +
      "With stream: data events up to [DONE]",
    content: {
      "application/json": { schema: { type: "object" } },
      "text/event-stream": { schema: { type: "string" } },
    },
  };
}

/** What a path tells is all that there is to say of its answer too. */
function tells(summary: string, type = "application/json"): Json & { readonly responses: Json } {
  const schema = { type: type === "application/json" ? "object" : "string" };
  return {
    summary,
    responses: { 200: { description: summary, content: { [type]: { schema } } }, ...refusals(401, 403) },
  };
}

function aboutOneModel(): Json {
  const { responses, ...rest } = tells("One of these models");
  const model = { name: "model", in: "path", required: true, schema: { type: "string" }, description: "Its name" };
  return { ...rest, parameters: [model], responses: { ...responses, ...refusals(404) } };
}

function readiness(): Json {
  const { responses } = tells("Requests are welcome");
  const content = { "application/json": { schema: { type: "object" } } };
  return {
    summary: "Requests are welcome; 503 with a reason while they are not",
    responses: { ...responses, 503: { description: "Not now: status and reason say why", content } },
  };
}

/** Without a key. */
function open(operation: Json): Json {
  return { ...operation, security: [] };
}

function refusals(...statuses: readonly number[]): Json {
  const content = { "application/json": { schema: reference("ErrorBody") } };
  return Object.fromEntries(statuses.map((status) => [status, { description: REFUSALS[status], content }]));
}

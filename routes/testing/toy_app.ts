import type { Hono } from "hono";
import type { Registry } from "prom-client";
import type { EngineOptions } from "../../engine/mod.ts";
import { toyEngine } from "../../engine/testing/toy_engine.ts";
import { TOY_VOCABULARY } from "../../engine/testing/toy_runner.ts";
import { toyTokenizer } from "../../engine/testing/toy_tokenizer.ts";
import { createApp } from "../app.ts";
import { BodyRoom } from "../body_room.ts";
import { DEFAULT_JSON_LIMITS } from "../read_json.ts";
import { Refusals } from "../refusals.ts";
import type { RecordedEnv } from "../request_record.ts";
import type { Services } from "../services.ts";

export type LogLine = Readonly<Record<string, unknown>>;

/** The service over a toy model. */
export function toyApp(
  givenOptions: Partial<EngineOptions> = {},
  givenServices: Partial<Services> = {},
): {
  app: Hono<RecordedEnv>;
  clock: { ms: number };
  gauges: () => Promise<Record<string, number>>;
  registry: Registry;
  logged: LogLine[];
  engine: Services["engine"];
  engineOptions: EngineOptions;
  services: Services;
} {
  const { engine, options, clock, gauges, registry, metrics } = toyEngine(givenOptions);
  const logged: LogLine[] = [];
  let ids = 0;
  const log = (line: LogLine) => void logged.push(line);
  const services: Services = {
    engine,
    model: {
      name: "toy",
      family: "llama",
      vocabSize: TOY_VOCABULARY,
      eosTokenIds: [0],
      digest: "0123",
      levels: [0, 0.15, 0.35].map((pruningRate) => ({
        pruningRate,
        keptParameters: 1000 * (1 - pruningRate),
        bytesPerToken: 500 * (1 - pruningRate),
        cacheBytesPerToken: 64,
        stateBytesPerSequence: 1000 * (1 - pruningRate),
        perplexity: null,
      })),
    },
    tokenizer: toyTokenizer,
    chatTemplate: null,
    limits: { ...DEFAULT_JSON_LIMITS, maxPromptLength: 1000 },
    bodyRoom: new BodyRoom(Infinity),
    security: { keys: null, metricsWithoutKey: false, hosts: null, origins: [] },
    build: {
      version: "0.0.0",
      engine: "toy 1.0",
      kernels: "stock",
      device: { device: "cpu", name: null, reason: "asked for" },
      threads: 1,
      memory: { weights: 1000 },
      startedSeconds: 1_700_000_000,
    },
    registry,
    metrics,
    log,
    refusals: new Refusals({ metrics, log, now: () => clock.ms }),
    logPrompts: false,
    now: () => clock.ms,
    newId: () => `id-${ids++}`,
    newSeed: () => 1,
    ...givenServices,
  };
  const app = createApp(services);
  return { app, clock, gauges, registry, logged, engine, engineOptions: options, services };
}

/** Sends a body to `/generate`, as it is if it is text. */
export function post(app: Hono<RecordedEnv>, body: unknown, init: RequestInit = {}): Promise<Response> {
  return sendTo(app, "/generate", body, init);
}

/** Sends a body to a path, as it is if it is text. */
export function sendTo(
  app: Hono<RecordedEnv>,
  path: string,
  body: unknown,
  init: RequestInit = {},
): Promise<Response> {
  return Promise.resolve(
    app.request(path, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body), ...init }),
  );
}

/** Data of a body's unnamed events, parsed where it is JSON. */
// deno-lint-ignore no-explicit-any -- tests look into what they expect
export async function readDocuments(response: Response): Promise<any[]> {
  const events = (await response.text()).split("\n\n").filter((event) => event !== "");
  return events.map((event) => {
    const data = event.replace(/^data: /, "");
    return data === "[DONE]" ? data : JSON.parse(data);
  });
}

/** Events of a body, as they come. */
export async function* readEvents(
  { body }: Response,
  // deno-lint-ignore no-explicit-any -- tests look into what they expect
): AsyncGenerator<{ event: string; data: any }, void> {
  let text = "";
  for await (const piece of body!.pipeThrough(new TextDecoderStream())) {
    text += piece;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const [event, data] = text.slice(0, end).split("\n");
      yield { event: event!.replace("event: ", ""), data: JSON.parse(data!.replace("data: ", "")) };
    }
  }
}

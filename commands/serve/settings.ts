import { z } from "zod";
import { isPolicyName, OTHER_CPU_SHARE, POLICY_NAMES } from "../../engine/mod.ts";
import { DEFAULT_CONNECTION_LIMITS, DEFAULT_JSON_LIMITS } from "../../routes/mod.ts";
import { DeviceFlag } from "../device.ts";
import { physicalCores } from "../physical_cores.ts";

/** An origin, as browsers send it: its host in lower case, and no port where it is the scheme's. */
const Origin = z.string()
  .refine(
    (text) => /^https?:\/\/[^/?#@*\s]+$/i.test(text) && URL.canParse(text),
    "Expected origins such as https://example.org",
  )
  .transform((text) => new URL(text).origin);

/** What the service can be told, as flags and in the environment. */
export const Settings = z.strictObject({
  host: z.string().min(1).overwrite((host) => host.replace(/^\[(.+)\]$/, "$1")).default("127.0.0.1")
    .describe("Address to listen on"),
  port: z.int().min(0).max(65535).default(8080).describe("Port to listen on; 0 takes a free one"),
  model: z.string().min(1).default("artifacts/demo").describe("Folder of the artefact"),
  device: DeviceFlag,
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads that compute"),
  slots: z.int().min(1).max(64).default(4).describe("Requests that run at once"),
  maxContext: z.int().min(2).max(1 << 20).default(2048)
    .describe("Tokens of prompt and answer together; no more than the model was made for"),
  prefillChunk: z.int().min(1).max(4096).default(128).describe("Prompt tokens that one step takes"),
  maxWaiting: z.int().min(0).max(100_000).default(64).describe("Requests that can wait for a slot"),
  maxWaitingTokens: z.int().min(1).max(1 << 30).default(1 << 16).describe("Prompt tokens that can wait for slots"),
  policy: z.string().refine(isPolicyName, `Expected one of ${POLICY_NAMES.join(", ")}`).default("predictive")
    .describe(`How rates are chosen: ${POLICY_NAMES.join(", ")}`),
  shed: z.boolean().default(true)
    .describe("Refuses requests that only the present load keeps from their budget (policy predictive)"),
  stepTimes: z.string().min(1).default("cache/step_times")
    .describe("Folder that keeps what steps cost on this machine, where Deno may write there"),
  targetTtftMs: z.number().min(1).max(3_600_000).default(5000)
    .describe("Time to the first token that is aimed at for requests without a budget"),
  targetTpotMs: z.number().min(1).max(3_600_000).default(500)
    .describe("Time between tokens that is aimed at for requests without a budget"),
  maxBodyBytes: z.int().min(1024).max(1 << 22).default(DEFAULT_JSON_LIMITS.maxBodyBytes).describe("Bytes of a body"),
  maxPromptLength: z.int().min(1).max(1 << 22).optional()
    .describe("UTF-16 code units of a prompt; if not given, 16 for each token of the context"),
  maxJsonDepth: z.int().min(4).max(1000).default(DEFAULT_JSON_LIMITS.maxJsonDepth)
    .describe("Arrays and objects inside each other in a body"),
  apiKeys: z.array(z.string()).default([]).describe(
    "Key that callers must bring; in the environment or a file, since other users see command lines",
  ),
  apiKeysFile: z.string().min(1).optional().describe("File with such keys, one a line"),
  allowWithoutKeys: z.boolean().default(false).describe("Serves a network without keys"),
  metricsWithoutKey: z.boolean().default(false).describe("Answers /metrics to everyone"),
  corsOrigins: z.array(Origin).default([])
    .describe("Origin whose pages may call, such as https://example.org"),
  allowedHosts: z.array(z.string().regex(/^[\w.-]+$/, "Expected names without a port").toLowerCase()).default([])
    .describe("Name that the header Host may have besides loopback's; on a network, none means any"),
  maxConnections: z.int().min(1).max(100_000).default(DEFAULT_CONNECTION_LIMITS.maxConnections)
    .describe("Connections at once; of more, the one longest without a whole request is closed"),
  maxHeaderBytes: z.int().min(1024).max(1 << 20).default(DEFAULT_CONNECTION_LIMITS.maxHeaderBytes)
    .describe("Bytes of a request's headers"),
  headerSeconds: z.number().min(0.1).max(3600).default(DEFAULT_CONNECTION_LIMITS.headerSeconds)
    .describe("Time for a request's headers"),
  requestSeconds: z.number().min(0.1).max(3600).default(DEFAULT_CONNECTION_LIMITS.requestSeconds)
    .describe("Time for a whole request to arrive"),
  idleSeconds: z.number().min(0.1).max(3600).default(DEFAULT_CONNECTION_LIMITS.idleSeconds)
    .describe("Time that a connection stays open between requests"),
  stalledSeconds: z.number().min(0.1).max(3600).default(DEFAULT_CONNECTION_LIMITS.stalledSeconds)
    .describe("Time after which an answer that nobody takes is cancelled"),
  drainSeconds: z.number().min(0).max(3600).default(10).describe("Time for running requests when asked to stop"),
  logPrompts: z.boolean().default(false).describe("Writes prompts into the log, which has no text otherwise"),
  prometheusUrl: z.url({ protocol: /^https?$/ }).optional()
    .describe("Prometheus server to ask what other workloads take of the machine"),
  prometheusQuery: z.string().min(1).default(OTHER_CPU_SHARE).describe("What to ask it: PromQL for a share, 0 to 1"),
  prometheusSeconds: z.number().min(0.1).max(300).default(5).describe("Seconds between two queries"),
  sysfs: z.string().min(1).default("/sys").describe("Folder where Linux reports temperature, power and GPU load"),
});
export type Settings = z.output<typeof Settings>;

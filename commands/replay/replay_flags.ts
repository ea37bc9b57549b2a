import { z } from "zod";
import { POLICY_NAMES } from "../../engine/mod.ts";
import type { ShapeName } from "../../models/known_shapes.ts";
import { physicalCores } from "../physical_cores.ts";
import { SHAPES_OF_LOAD } from "./trace.ts";

/** Shapes small enough to be made and run here. */
const SHAPES = ["smollm2-135m", "qwen2.5-0.5b", "llama-3.2-1b"] as const satisfies readonly ShapeName[];

/** The flags of `deno task replay`. */
export const ReplayFlags = z.strictObject({
  model: z.string().default("artifacts/demo").describe("Artefact"),
  shape: z.enum(SHAPES).optional().describe("Random weights in this model's dimensions instead"),
  url: z.url({ protocol: /^http$/ }).optional().describe("A service that runs, instead of one for each policy"),
  policies: z.string().default("fixed:0,fixed:0.35,queue-threshold,budget,slackfit,predictive")
    .describe(`Policies to run in turn, separated by commas: ${POLICY_NAMES.join(", ")}`),
  loads: z.string().default("0.5,1.2,3").describe("Offered loads, as multiples of what rate 0 sustains"),
  seconds: z.number().min(1).max(86_400).default(60).describe("Length of a trace"),
  arrivals: z.enum(SHAPES_OF_LOAD).default("gamma").describe("How the load moves over time"),
  cv2: z.number().min(0.01).max(100).default(4).describe("Squared coefficient of variation of gaps: burstiness"),
  trace: z.string().optional().describe("CSV of arrival seconds, prompt tokens, output tokens and class instead"),
  promptTokens: z.int().min(1).max(100_000).default(32).describe("Median length of prompts"),
  outputTokens: z.int().min(1).max(100_000).default(24).describe("Median length of answers"),
  tight: z.number().min(0.01).max(1000).default(1.5).describe(
    "Tight budget, as a multiple of the time alone at rate 0",
  ),
  loose: z.number().min(0.01).max(1000).default(4).describe("Loose budget, likewise"),
  tightShare: z.number().min(0).max(1).default(0.5).describe("Share of requests with a tight budget"),
  onMiss: z.enum(["degrade", "truncate", "reject"]).default("reject").describe("What requests ask for if none fits"),
  halfCpuAt: z.number().min(0).max(86_400).optional().describe(
    "Second of each trace that takes half of the cores away",
  ),
  costSeconds: z.number().min(0).max(3600).default(45).describe(
    "Time to measure what steps cost; one round is always run",
  ),
  capacitySeconds: z.number().min(0.1).max(3600).default(15).describe("Time to measure what rate 0 sustains"),
  oracleCandidates: z.int().min(0).max(10_000_000).default(20_000).describe("Schedules the oracle tries; 0: no oracle"),
  rounds: z.int().min(1).max(1000).default(1).describe(
    "Times that all is measured and run again, each with the next seed; they are counted together",
  ),
  seed: z.int().min(0).max(2 ** 31 - 1).default(1).describe("Seed of everything that is random in the first round"),
  slots: z.int().min(1).max(64).default(4).describe("Slots of the service"),
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads of the service"),
  prefillChunk: z.int().min(1).max(4096).default(128).describe("Prompt tokens of one step of the service"),
  serviceFlags: z.string().default("").describe('More flags for the service: --service-flags="--max-waiting=16"'),
  json: z.string().optional().describe("File for everything that was found, as JSON"),
  html: z.string().optional().describe("File for the report with plots, as one HTML page"),
});
export type ReplayFlags = z.output<typeof ReplayFlags>;

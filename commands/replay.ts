/** `deno task replay`: how well the policies keep budgets under a trace of requests, against each other and an oracle. */

import { z } from "zod";
import { createPolicy, isPolicyName, POLICY_NAMES } from "../engine/mod.ts";
import type { ShapeName } from "../models/known_shapes.ts";
import { parseFlags } from "./flags.ts";
import { physicalCores } from "./physical_cores.ts";
import { progressBar } from "./progress_bar.ts";
import { randomArtefact } from "./random_artefacts.ts";
import { BusyCores } from "./replay/busy_cores.ts";
import { type Info, ServiceClient } from "./replay/client.ts";
import { measureCapacity, measureCosts, randomPrompt } from "./replay/measure.ts";
import { type MeasuredCosts, StepClock } from "./replay/measured_costs.ts";
import { findOracle } from "./replay/oracle.ts";
import type { BudgetedRequest, Outcome } from "./replay/outcome.ts";
import { reportPage } from "./replay/page.ts";
import { RandomDraws } from "./replay/random.ts";
import { Probes, type ProbeTimes } from "./replay/probes.ts";
import type { HalfCpuErrors, LoadReport, PolicyRun, ReplayReport } from "./replay/report.ts";
import { sendTrace } from "./replay/send_trace.ts";
import { ServiceProcess } from "./replay/service_process.ts";
import { type Decisions, judge, REFUSED, type SimulatedRequest } from "./replay/simulator.ts";
import { predictionError, SETTLING_MS, summarize } from "./replay/summary.ts";
import { markdown } from "./replay/tables.ts";
import { parseTraceCsv } from "./replay/trace_csv.ts";
import { arrivalsMs, scaledTrace, SHAPES_OF_LOAD, type TraceRequest, traceWork } from "./replay/trace.ts";
import { runCommand } from "./run_command.ts";

/** Shapes small enough to be made and run here. */
const SHAPES = ["smollm2-135m", "qwen2.5-0.5b", "llama-3.2-1b"] as const satisfies readonly ShapeName[];

const Flags = z.strictObject({
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
  seed: z.int().min(0).max(2 ** 31 - 1).default(1).describe("Seed of everything that is random"),
  slots: z.int().min(1).max(64).default(4).describe("Slots of the service"),
  threads: z.int().min(1).max(1024).default(physicalCores()).describe("Threads of the service"),
  prefillChunk: z.int().min(1).max(4096).default(128).describe("Prompt tokens of one step of the service"),
  serviceFlags: z.string().default("").describe('More flags for the service: --service-flags="--max-waiting=16"'),
  json: z.string().optional().describe("File for everything that was found, as JSON"),
  html: z.string().optional().describe("File for the report with plots, as one HTML page"),
});
type Flags = z.output<typeof Flags>;

/** Streams of random numbers are told apart by what is added to the seed. */
const SEEDS = { lengths: 0, arrivals: 1, prompts: 2, measuring: 3, oracle: 4 } as const;

/** A service to send requests to, with what must be done when that is over. */
interface Target extends AsyncDisposable {
  readonly client: ServiceClient;
}

await runCommand(async () => {
  const flags = parseFlags(Flags, Deno.args, {
    name: "deno task replay",
    summary: "Replays a trace of requests against the service under one policy after the other, and compares them.",
  });
  const loads = flags.loads.split(",").map(Number);
  if (!loads.every((load) => load > 0 && load < Infinity)) {
    throw new RangeError(`--loads: "${flags.loads}" are not numbers above 0, separated by commas`);
  }
  const policies = flags.url === undefined ? flags.policies.split(",").filter((name) => name !== "") : [flags.url];
  if (policies.length === 0) throw new RangeError("--policies: there is none");
  const unknown = flags.url === undefined ? policies.filter((name) => !isPolicyName(name)) : [];
  if (unknown.length > 0) {
    throw new RangeError(`--policies: there is no ${unknown.join(", ")}; these are: ${POLICY_NAMES.join(", ")}`);
  }
  if (flags.halfCpuAt !== undefined && flags.halfCpuAt >= flags.seconds) {
    throw new RangeError(`--half-cpu-at: ${flags.halfCpuAt} is not within the --seconds of a trace, ${flags.seconds}`);
  }
  const recorded = flags.trace === undefined ? null : parseTraceCsv(await Deno.readTextFile(flags.trace));
  if (flags.halfCpuAt !== undefined) await (await takeHalfOfTheCpu())[Symbol.asyncDispose]();
  for (const file of [flags.json, flags.html]) {
    // Whether it can be written, now and not after the runs; what it has stays until there is something else.
    if (file !== undefined) (await Deno.open(file, { write: true, create: true })).close();
  }

  const report = await replay(flags, { policies, loads, recorded });
  console.log(markdown(report));
  if (flags.json !== undefined) await Deno.writeTextFile(flags.json, JSON.stringify(report));
  if (flags.html !== undefined) await Deno.writeTextFile(flags.html, reportPage(report));
});

interface Plan {
  readonly policies: readonly string[];
  readonly loads: readonly number[];
  readonly recorded: readonly TraceRequest[] | null;
}

async function replay(flags: Flags, { policies, loads, recorded }: Plan): Promise<ReplayReport> {
  const model = flags.shape === undefined ? flags.model : await randomArtefact({ shape: flags.shape, blockSize: 32 });
  const { info, costs, capacity } = await measured(flags, { model, policies, recorded });
  const clock = new StepClock(costs);
  const traces = loads.map((load) => ({ load, requests: traceAt(load * capacity, { flags, clock, recorded }) }));

  using bar = progressBar("replay");
  const total = traces.length * policies.length;
  const runs: PolicyRun[][] = traces.map(() => []);
  for (const [p, policy] of policies.entries()) {
    for (const [t, { load, requests }] of traces.entries()) {
      // A process for each run: no policy learns from the trace before.
      await using target = await targetOf(flags, { model, policy });
      const started = performance.now();
      const { outcomes, probes } = await runTrace(target.client, requests, {
        flags,
        info,
        onProgress: (sent, done) =>
          bar.update(
            (p * traces.length + t + Math.min(1, (performance.now() - started) / (1000 * flags.seconds))) / total,
            `${policy} at ${load}: ${sent} of ${requests.length} sent, ${done} answered`,
          ),
      });
      runs[t]!.push(policyRun(policy, outcomes, { flags, info, clock, costs, probes }));
    }
  }

  const { model: { name }, engine, kernels, threads, slots } = info;
  return {
    ...{ model: name, engine, kernels, threads, slots },
    trace: flags.trace ?? `${flags.arrivals} with CV² ${flags.cv2}`,
    seconds: flags.seconds,
    seed: flags.seed,
    onMiss: flags.onMiss,
    budgets: { tight: flags.tight, loose: flags.loose },
    halfCpuAtSeconds: flags.halfCpuAt ?? null,
    costs,
    capacity,
    loads: traces.map(({ load, requests }, t): LoadReport => ({
      ...{ load, requests, runs: runs[t]! },
      oracle: flags.oracleCandidates === 0 ? null : oracleOf(requests, runs[t]!, { flags, clock, costs, load }),
    })),
  };
}

async function targetOf(flags: Flags, { model, policy }: { model: string; policy: string }): Promise<Target> {
  if (flags.url === undefined) {
    const { slots, threads, prefillChunk } = flags;
    return await ServiceProcess.start([
      ...[`--model=${model}`, `--policy=${policy}`, `--slots=${slots}`, `--threads=${threads}`],
      ...[`--prefill-chunk=${prefillChunk}`, ...flags.serviceFlags.split(" ").filter((flag) => flag !== "")],
    ]);
  }
  const client = new ServiceClient(flags.url.replace(/\/$/, ""));
  if (!await client.ready()) throw new RangeError(`--url: ${flags.url}/readyz does not answer 200`);
  return { client, [Symbol.asyncDispose]: async () => await client[Symbol.dispose]() };
}

/** What the service is, what its steps cost, and what it sustains at rate 0. */
async function measured(
  flags: Flags,
  { model, policies, recorded }: {
    model: string;
    policies: readonly string[];
    recorded: readonly TraceRequest[] | null;
  },
): Promise<{ info: Info; costs: MeasuredCosts; capacity: number }> {
  await using target = await targetOf(flags, { model, policy: policies[0]! });
  using bar = progressBar("measure");
  const { client } = target;
  const info = await client.info();
  // A service with a policy starts only when its turn comes.
  const pruningRates = info.levels.map((level) => level.pruning_rate);
  if (flags.url === undefined) { for (const name of policies) createPolicy(name, { pruningRates, shed: true }); }
  const draws = new RandomDraws(flags.seed + SEEDS.measuring);
  const work = recorded ?? traceWork(1000, lengths(flags));
  const longest = Math.max(...work.map(({ promptTokens, newTokens }) => promptTokens + newTokens));
  if (longest > info.model.context_tokens) {
    throw new RangeError(
      `The trace has a request of ${longest} tokens, the service takes ${info.model.context_tokens}`,
    );
  }
  const costs = await measureCosts({
    ...{
      client,
      info,
      draws,
      prefillChunk: flags.prefillChunk,
      context: flags.promptTokens,
      seconds: flags.costSeconds,
    },
    onProgress: (share) => bar.update(0.7 * share, "what steps cost"),
  });
  const capacity = await measureCapacity({
    ...{ client, info, draws, work, seconds: flags.capacitySeconds },
    onProgress: (share) => bar.update(0.7 + 0.3 * share, "what rate 0 sustains"),
  });
  return { info, costs, capacity };
}

function lengths({ seed, promptTokens, outputTokens, tightShare }: Flags) {
  return { seed: seed + SEEDS.lengths, promptTokens, newTokens: outputTokens, tightShare };
}

/** The trace of a load in requests per second, with budgets. */
function traceAt(
  requestsPerSecond: number,
  { flags, clock, recorded }: {
    readonly flags: Flags;
    readonly clock: StepClock;
    readonly recorded: readonly TraceRequest[] | null;
  },
): BudgetedRequest[] {
  const { seconds, seed, arrivals: shape, cv2 } = flags;
  const synthetic = () => {
    const count = Math.max(1, Math.round(requestsPerSecond * seconds));
    const work = traceWork(count, lengths(flags));
    return arrivalsMs(count, { seed: seed + SEEDS.arrivals, seconds, shape, cv2 })
      .map((arrivalMs, i) => ({ arrivalMs, ...work[i]! }));
  };
  const trace = recorded === null ? synthetic() : scaledTrace(recorded, { requestsPerSecond, seconds });
  return trace.map((request) => ({
    ...request,
    // The service takes budgets of a millisecond and more.
    budgetMs: Math.max(1, flags[request.budgetClass] * clock.aloneMs(0, request.promptTokens, request.newTokens)),
  }));
}

async function runTrace(
  client: ServiceClient,
  requests: readonly BudgetedRequest[],
  { flags, info, onProgress }: {
    readonly flags: Flags;
    readonly info: Info;
    readonly onProgress: (sent: number, done: number) => void;
  },
): Promise<{ outcomes: Outcome[]; probes: ProbeTimes }> {
  const draws = new RandomDraws(flags.seed + SEEDS.prompts);
  const prompts = requests.map(({ promptTokens }) => randomPrompt(draws, promptTokens, info.model.vocab_size));
  let busy: Promise<BusyCores> | null = null;
  const timer = flags.halfCpuAt === undefined ? undefined : setTimeout(() => {
    busy = takeHalfOfTheCpu();
    // It is waited for at the end, which throws what it failed with. Until then nobody does, and Deno would end at once.
    busy.catch(() => {});
  }, 1000 * flags.halfCpuAt);
  const probes = new Probes(client);
  try {
    const outcomes = await sendTrace({ client, requests, prompts, onMiss: flags.onMiss, onProgress });
    return { outcomes, probes: await probes.stop() };
  } finally {
    await probes.stop();
    clearTimeout(timer);
    await (await (busy as Promise<BusyCores> | null))?.[Symbol.asyncDispose]();
  }
}

function takeHalfOfTheCpu(): Promise<BusyCores> {
  return BusyCores.start(Math.max(1, physicalCores() >> 1));
}

interface Known {
  readonly flags: Flags;
  readonly clock: StepClock;
  readonly costs: MeasuredCosts;
}

function policyRun(
  policy: string,
  outcomes: readonly Outcome[],
  known: Known & { readonly info: Info; readonly probes: ProbeTimes },
): PolicyRun {
  const { flags, info, clock, costs, probes } = known;
  const perplexity = new Map(info.levels.map((level) => [level.pruning_rate, level.perplexity ?? NaN]));
  const { attainment, meanRate } = judge(
    clock,
    costs.pruningRates,
    simulated(outcomes, costs),
    decisionsOf(outcomes, costs),
  );
  return {
    policy,
    summary: summarize(outcomes, { seconds: flags.seconds, perplexity, probes }),
    halfCpu: flags.halfCpuAt === undefined ? null : halfCpuErrors(outcomes, 1000 * flags.halfCpuAt),
    simulated: { attainment, meanRate },
    outcomes,
  };
}

function halfCpuErrors(outcomes: readonly Outcome[], atMs: number): HalfCpuErrors {
  return {
    before: predictionError(outcomes, { fromMs: 0, toMs: atMs }),
    within: predictionError(outcomes, { fromMs: atMs, toMs: atMs + SETTLING_MS }),
    after: predictionError(outcomes, { fromMs: atMs + SETTLING_MS, toMs: Infinity }),
  };
}

/** Requests for the simulator, whose clock does not see the client's way. */
function simulated(requests: readonly BudgetedRequest[], { overheadMs }: MeasuredCosts): SimulatedRequest[] {
  return requests.map(({ arrivalMs, promptTokens, newTokens, budgetMs }) => ({
    ...{ arrivalMs, promptTokens, newTokens },
    deadlineMs: arrivalMs + budgetMs - overheadMs,
  }));
}

/** What a policy decided about each request; of those that were narrowed, as if they had been so from the start. */
function decisionsOf(outcomes: readonly Outcome[], { pruningRates }: MeasuredCosts): Decisions {
  return { levels: outcomes.map(({ served }) => served === null ? REFUSED : pruningRates.indexOf(served.pruningRate)) };
}

function oracleOf(
  requests: readonly BudgetedRequest[],
  runs: readonly PolicyRun[],
  { flags, clock, costs, load }: Known & { readonly load: number },
): LoadReport["oracle"] {
  using bar = progressBar(`oracle at ${load}`);
  const { attainment, meanRate } = findOracle({
    clock,
    pruningRates: costs.pruningRates,
    requests: simulated(requests, costs),
    seeds: runs.map(({ outcomes }) => decisionsOf(outcomes, costs)),
    // As far as is known; with Mamba blocks nothing can be narrowed, and the bound is above what can be reached.
    narrows: true,
    candidates: flags.oracleCandidates,
    seed: flags.seed + SEEDS.oracle,
    onProgress: (share) => bar.update(share, "schedules"),
  });
  return { attainment, meanRate };
}

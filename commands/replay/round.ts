import { createPolicy } from "../../engine/mod.ts";
import { progressBar } from "../progress_bar.ts";
import { type BusyCores, takeHalfOfTheCpu } from "./busy_cores.ts";
import { type Info, ServiceClient } from "./client.ts";
import { measureCapacity, measureCosts, randomPrompt } from "./measure.ts";
import { type MeasuredCosts, StepClock } from "./measured_costs.ts";
import type { BudgetedRequest, Outcome } from "./outcome.ts";
import { Probes, type ProbeTimes } from "./probes.ts";
import { RandomDraws } from "./random.ts";
import type { ReplayFlags } from "./replay_flags.ts";
import { sendTrace } from "./send_trace.ts";
import { ServiceProcess } from "./service_process.ts";
import { arrivalsMs, scaledTrace, type TraceRequest, traceWork } from "./trace.ts";

/** Streams of random numbers of a round are told apart by what is added to its seed. */
export const SEEDS = { lengths: 0, arrivals: 1, prompts: 2, measuring: 3, oracle: 4 } as const;

/** What is replayed. */
export interface Plan {
  /** Artefact. */
  readonly model: string;
  readonly policies: readonly string[];
  /** As multiples of what rate 0 sustains. */
  readonly loads: readonly number[];
  readonly recorded: readonly TraceRequest[] | null;
}

/** What one policy made of one trace. */
export interface TraceRun {
  /** By arrival. */
  readonly outcomes: readonly Outcome[];
  readonly probes: ProbeTimes;
}

/** The machine as a round found it, and what came of its traces. */
export interface Round {
  readonly seed: number;
  readonly info: Info;
  readonly costs: MeasuredCosts;
  readonly clock: StepClock;
  /** Requests per second that rate 0 sustains. */
  readonly capacity: number;
  /** A trace for each load. */
  readonly traces: readonly (readonly BudgetedRequest[])[];
  /** `[load][policy]`. */
  readonly runs: readonly (readonly TraceRun[])[];
}

/**
 * Measures the machine and runs each policy with traces that are scaled by that. Every second round takes policies from
 * last to first: what a machine that slows or gets faster does to one is so done to the others too.
 *
 * @param round From 0; its seed is the first one's and so much more.
 */
export async function runRound(
  round: number,
  { flags: given, plan }: { readonly flags: ReplayFlags; readonly plan: Plan },
): Promise<Round> {
  const { model, policies, loads, recorded } = plan;
  const flags = { ...given, seed: given.seed + round };
  const { info, costs, capacity } = await measured(flags, plan);
  const clock = new StepClock(costs);
  const traces = loads.map((load) =>
    traceAt(load * capacity, { flags, clock, recorded }).map((request): BudgetedRequest => ({ round, ...request }))
  );

  using bar = progressBar(flags.rounds === 1 ? "replay" : `replay ${round + 1} of ${flags.rounds}`);
  const runs = loads.map((): TraceRun[] => []);
  const total = loads.length * policies.length;
  let ended = 0;
  const inOrder = [...policies.entries()];
  for (const [p, policy] of round % 2 === 0 ? inOrder : inOrder.reverse()) {
    for (const [l, load] of loads.entries()) {
      const requests = traces[l]!;
      // A process for each run: no policy learns from the trace before.
      await using target = await targetOf(flags, { model, policy });
      const started = performance.now();
      runs[l]![p] = await runTrace(target.client, requests, {
        flags,
        info,
        onProgress: (sent, done) =>
          bar.update(
            (ended + Math.min(1, (performance.now() - started) / (1000 * flags.seconds))) / total,
            `${policy} at ${load}: ${sent} of ${requests.length} sent, ${done} answered`,
          ),
      });
      ended++;
    }
  }
  return { seed: flags.seed, info, costs, clock, capacity, traces, runs };
}

/** A service to send requests to, with what must be done when that is over. */
interface Target extends AsyncDisposable {
  readonly client: ServiceClient;
}

async function targetOf(flags: ReplayFlags, { model, policy }: { model: string; policy: string }): Promise<Target> {
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
  flags: ReplayFlags,
  { model, policies, recorded }: Plan,
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

function lengths({ seed, promptTokens, outputTokens, tightShare }: ReplayFlags) {
  return { seed: seed + SEEDS.lengths, promptTokens, newTokens: outputTokens, tightShare };
}

/** The trace of a load in requests per second, with budgets. */
function traceAt(
  requestsPerSecond: number,
  { flags, clock, recorded }: {
    readonly flags: ReplayFlags;
    readonly clock: StepClock;
    readonly recorded: readonly TraceRequest[] | null;
  },
): Omit<BudgetedRequest, "round">[] {
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
    readonly flags: ReplayFlags;
    readonly info: Info;
    readonly onProgress: (sent: number, done: number) => void;
  },
): Promise<TraceRun> {
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

import { progressBar } from "../progress_bar.ts";
import type { MeasuredCosts } from "./measured_costs.ts";
import { findOracle } from "./oracle.ts";
import type { BudgetedRequest, Outcome } from "./outcome.ts";
import type { ReplayFlags } from "./replay_flags.ts";
import type { HalfCpuErrors, LoadReport, PolicyRun, ReplayReport } from "./report.ts";
import { type Plan, type Round, runRound, SEEDS } from "./round.ts";
import { type Decisions, judge, pooled, REFUSED, type SimulatedRequest } from "./simulator.ts";
import { predictionError, SETTLING_MS, summarize } from "./summary.ts";

/** Runs all rounds, and counts them together. */
export async function replay(flags: ReplayFlags, plan: Plan): Promise<ReplayReport> {
  const rounds: Round[] = [];
  for (let round = 0; round < flags.rounds; round++) rounds.push(await runRound(round, { flags, plan }));
  const { model: { name }, engine, kernels, threads, slots } = rounds[0]!.info;
  return {
    ...{ model: name, engine, kernels, threads, slots },
    trace: flags.trace ?? `${flags.arrivals} with CV² ${flags.cv2}`,
    seconds: flags.seconds,
    onMiss: flags.onMiss,
    budgets: { tight: flags.tight, loose: flags.loose },
    halfCpuAtSeconds: flags.halfCpuAt ?? null,
    rounds: rounds.map(({ seed, costs, capacity }) => ({ seed, costs, capacity })),
    loads: plan.loads.map((load, l): LoadReport => ({
      load,
      requests: rounds.flatMap(({ traces }) => traces[l]!),
      runs: plan.policies.map((policy, p) => policyRun(policy, { flags, rounds, l, p })),
      oracle: flags.oracleCandidates === 0 ? null : oracleOf(rounds, { flags, load, l }),
    })),
  };
}

/** @param l Index of the load. @param p Index of the policy. */
function policyRun(
  policy: string,
  { flags, rounds, l, p }: {
    readonly flags: ReplayFlags;
    readonly rounds: readonly Round[];
    readonly l: number;
    readonly p: number;
  },
): PolicyRun {
  const perplexity = new Map(
    rounds[0]!.info.levels.map((level) => [level.pruning_rate, level.perplexity ?? NaN]),
  );
  const runs = rounds.map((round) => round.runs[l]![p]!);
  const outcomes = runs.flatMap((run) => run.outcomes);
  const probes = {
    metrics: runs.flatMap((run) => run.probes.metrics),
    readyz: runs.flatMap((run) => run.probes.readyz),
  };
  const onPaper = rounds.map(({ clock, costs }, r) => {
    const { outcomes } = runs[r]!;
    return judge(clock, costs.pruningRates, simulated(outcomes, costs), decisionsOf(outcomes, costs));
  });
  return {
    policy,
    summary: summarize(outcomes, { seconds: flags.seconds, perplexity, probes }),
    halfCpu: flags.halfCpuAt === undefined ? null : halfCpuErrors(outcomes, 1000 * flags.halfCpuAt),
    simulated: pooled(onPaper),
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
  rounds: readonly Round[],
  { flags, load, l }: { readonly flags: ReplayFlags; readonly load: number; readonly l: number },
): LoadReport["oracle"] {
  using bar = progressBar(`oracle at ${load}`);
  return pooled(rounds.map(({ seed, clock, costs, traces, runs }, r) =>
    findOracle({
      clock,
      pruningRates: costs.pruningRates,
      requests: simulated(traces[l]!, costs),
      seeds: runs[l]!.map(({ outcomes }) => decisionsOf(outcomes, costs)),
      // As far as is known; with Mamba blocks nothing can be narrowed, and the bound is above what can be reached.
      narrows: true,
      candidates: flags.oracleCandidates,
      seed: seed + SEEDS.oracle,
      onProgress: (share) => bar.update((r + share) / rounds.length, "schedules"),
    })
  ));
}

/** Time per kind of operator, from the timelines that ONNX Runtime writes. */

import { z } from "zod";

/** What one kind of operator costs in a run. */
export interface OperatorTime {
  readonly operator: string;
  /** Nodes per run. */
  readonly nodes: number;
  readonly ms: number;
}

export interface RunTimes {
  /** Time of a run, nodes and what is between them. */
  readonly ms: number;
  /** Dearest first. */
  readonly operators: readonly OperatorTime[];
}

const Timeline = z.array(z.looseObject({
  cat: z.string(),
  name: z.string(),
  ts: z.number(),
  dur: z.number(),
  args: z.looseObject({ op_name: z.string().optional() }).optional(),
}));
type Event = z.output<typeof Timeline>[number];

/**
 * Sums a timeline by runs of the same label.
 *
 * @param timeline ONNX Runtime's profile, JSON; times in microseconds.
 * @param labels What each run was, in their order; runs labelled null are left out.
 * @returns Medians over the runs of a label, by label.
 * @throws {RangeError} If the timeline holds another number of runs.
 */
export function operatorTimes(timeline: string, labels: readonly (string | null)[]): Map<string, RunTimes> {
  const events = Timeline.parse(JSON.parse(timeline)).toSorted((a, b) => a.ts - b.ts);
  const runs = events.filter(({ cat, name }) => cat === "Session" && name === "model_run");
  if (runs.length !== labels.length) {
    throw new RangeError(`Cannot label a timeline of ${runs.length} runs: there are ${labels.length} labels`);
  }
  const nodes = events.filter(({ cat, name }) => cat === "Node" && name.endsWith("_kernel_time"));
  const byLabel = Map.groupBy(runs, (_, index) => labels[index]!);
  return new Map(
    [...byLabel].filter(([label]) => label !== null).map(([label, ofLabel]) => [label, medians(ofLabel, nodes)]),
  );
}

function medians(runs: readonly Event[], nodes: readonly Event[]): RunTimes {
  const inRuns = runs.map(({ ts, dur }) => nodes.filter((node) => node.ts >= ts && node.ts < ts + dur));
  const operatorOf = (node: Event) => node.args?.op_name ?? node.name;
  const operators = [...new Set(inRuns.flat().map(operatorOf))].map((operator) => {
    const ofOperator = inRuns.map((run) => run.filter((node) => operatorOf(node) === operator));
    return {
      operator,
      nodes: ofOperator[0]!.length,
      ms: median(ofOperator.map((run) => run.reduce((sum, { dur }) => sum + dur, 0))) / 1000,
    };
  });
  return {
    ms: median(runs.map(({ dur }) => dur)) / 1000,
    operators: operators.toSorted((a, b) => b.ms - a.ms),
  };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

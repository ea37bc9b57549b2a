/** Time per kind of operator, from the timelines that ONNX Runtime writes. */

import { z } from "zod";
import { median } from "../statistics.ts";

/** What the runtime puts behind the name of a node that ran. */
const SUFFIX = "_kernel_time";

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
  args: z.looseObject({ op_name: z.string().optional(), provider: z.string().optional() }).optional(),
}));
type Event = z.output<typeof Timeline>[number];

export interface TimelineOptions {
  /** Leaves out what ran before the runs that have labels. */
  readonly afterOthers?: boolean;
  /** What a node is summed up under; by default its operator. @param name Such as `PrefixMatMul_12`. */
  readonly kindOf?: (name: string, operator: string) => string;
}

/**
 * Sums a timeline by runs of the same label.
 *
 * @param timeline ONNX Runtime's profile, JSON; times in microseconds.
 * @param labels What each run was, in their order; runs labelled null are left out.
 * @returns Medians over the runs of a label, by label.
 * @throws {RangeError} If the timeline holds another number of runs.
 */
export function operatorTimes(
  timeline: string,
  labels: readonly (string | null)[],
  { afterOthers = false, kindOf = (_name, operator) => operator }: TimelineOptions = {},
): Map<string, RunTimes> {
  const events = Timeline.parse(JSON.parse(timeline)).toSorted((a, b) => a.ts - b.ts);
  const all = events.filter(({ cat, name }) => cat === "Session" && name === "model_run");
  const runs = afterOthers ? all.slice(-labels.length) : all;
  if (runs.length !== labels.length) {
    throw new RangeError(`Cannot label a timeline of ${all.length} runs: there are ${labels.length} labels`);
  }
  const nodes = events.filter(isNodeRun);
  const byLabel = Map.groupBy(runs, (_, index) => labels[index]!);
  return new Map(
    [...byLabel].filter(([label]) => label !== null).map((
      [label, ofLabel],
    ) => [label, medians(ofLabel, nodes, kindOf)]),
  );
}

/** How many nodes ran on which provider in the last run of a timeline. */
export function nodesByProvider(timeline: string): Map<string, number> {
  const events = Timeline.parse(JSON.parse(timeline));
  const last = events.filter(({ cat, name }) => cat === "Session" && name === "model_run")
    .reduce((latest, run) => run.ts > latest.ts ? run : latest);
  const counts = new Map<string, number>();
  for (const { args } of events.filter((event) => isNodeRun(event) && isWithin(event, last))) {
    const provider = args?.provider ?? "unknown";
    counts.set(provider, (counts.get(provider) ?? 0) + 1);
  }
  return counts;
}

function isNodeRun({ cat, name }: Event): boolean {
  return cat === "Node" && name.endsWith(SUFFIX);
}

function isWithin({ ts }: Event, run: Event): boolean {
  return ts >= run.ts && ts < run.ts + run.dur;
}

function medians(
  runs: readonly Event[],
  nodes: readonly Event[],
  kindOf: NonNullable<TimelineOptions["kindOf"]>,
): RunTimes {
  const inRuns = runs.map((run) => nodes.filter((node) => isWithin(node, run)));
  const operatorOf = (node: Event) => {
    const name = node.name.slice(0, -SUFFIX.length);
    return kindOf(name, node.args?.op_name ?? node.name);
  };
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

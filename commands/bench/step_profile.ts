/** `deno task bench --profile`: where the time of a step goes. */

import type { Decoder } from "../../models/decoder.ts";
import { table } from "../text_table.ts";
import { nodesByProvider, operatorTimes, type RunTimes, type TimelineOptions } from "./operator_times.ts";

/** Decode steps, and prefills, of which medians are taken; one of each before them warms the session up. */
const [DECODE_RUNS, PREFILL_RUNS] = [8, 3];

/** Sequences of the decode steps. */
const BATCHES = [1, 8] as const;

/** Lends the prefix for a timeline's file, in a folder that is removed afterwards. */
export async function withTimeline<T>(profile: (prefix: string) => Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir({ prefix: "espalier-profile-" });
  try {
    return await profile(`${folder}/steps`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * Times every operator in decode steps of one and of eight sequences and in a prefill chunk, all at rate 0; with a
 * prefill context also in chunks that are behind so many tokens, and behind each other.
 *
 * @param decoder One that was opened to profile. It is of no other use any more.
 * @returns Times by what a run was, such as "decode of 8", and how many nodes of the last one ran on which provider.
 */
export async function profileSteps(
  decoder: Decoder,
  { context, prefillTokens, prefillContext, batches = BATCHES }: {
    context: number;
    prefillTokens: number;
    prefillContext?: number | undefined;
    batches?: readonly number[];
  },
  options: TimelineOptions = {},
): Promise<{ times: Map<string, RunTimes>; providers: Map<string, number> }> {
  const labels: (string | null)[] = [];
  const chunk = (length: number) => new Int32Array(length).fill(1);
  for (const batch of batches) {
    const sequences = Array.from({ length: batch }, () => decoder.openSequence(0));
    for (const sequence of sequences) {
      await decoder.step([{ sequence, tokens: chunk(context), logits: "none" }]);
      labels.push(null);
    }
    for (let run = 0; run <= DECODE_RUNS; run++) {
      await decoder.step(sequences.map((sequence) => ({ sequence, tokens: [1], logits: "last" as const })));
      labels.push(run === 0 ? null : `decode of ${batch}`);
    }
    for (const sequence of sequences) sequence.close();
  }
  for (let run = 0; run <= PREFILL_RUNS; run++) {
    const sequence = decoder.openSequence(0);
    await decoder.step([{ sequence, tokens: chunk(prefillTokens), logits: "last" }]);
    labels.push(run === 0 ? null : `prefill of ${prefillTokens}`);
    sequence.close();
  }
  if (prefillContext !== undefined) {
    const sequence = decoder.openSequence(0);
    while (sequence.length < prefillContext) {
      const length = Math.min(decoder.maxRows, prefillContext - sequence.length);
      await decoder.step([{ sequence, tokens: chunk(length), logits: "none" }]);
      labels.push(null);
    }
    for (let run = 0; run < PREFILL_RUNS; run++) {
      await decoder.step([{ sequence, tokens: chunk(prefillTokens), logits: "last" }]);
      labels.push(`prefill of ${prefillTokens} behind ${prefillContext}`);
    }
    sequence.close();
  }
  const path = decoder.endProfiling();
  try {
    const timeline = await Deno.readTextFile(path);
    return { times: operatorTimes(timeline, labels, options), providers: nodesByProvider(timeline) };
  } finally {
    await Deno.remove(path);
  }
}

/**
 * A table for each kind of run; operators below a hundredth of it are summed up.
 *
 * @param bytesOf Bytes that an operator reads in a run, where they are known.
 */
export function formatProfile(
  name: string,
  profile: ReadonlyMap<string, RunTimes>,
  bytesOf?: (label: string, operator: string) => number | null,
): string {
  return [...profile].map(([label, { ms, operators }]) => {
    const row = (name: string, nodes: number, time: number, bytes: number | null = null) => [
      name,
      String(nodes),
      time.toFixed(3),
      `${(100 * time / ms).toFixed(1)} %`,
      ...bytesOf === undefined
        ? []
        : bytes === null
        ? ["", ""]
        : [(bytes / 1e6).toFixed(1), (bytes / time / 1e6).toFixed(0)],
    ];
    const large = operators.filter((operator) => operator.ms >= ms / 100);
    const small = operators.filter((operator) => operator.ms < ms / 100);
    const sum = (of: readonly number[]) => of.reduce((total, value) => total + value, 0);
    const inNodes = sum(operators.map((operator) => operator.ms));
    const rows = [
      ...large.map(({ operator, nodes, ms }) => row(operator, nodes, ms, bytesOf?.(label, operator) ?? null)),
      row(`${small.length} others`, sum(small.map(({ nodes }) => nodes)), sum(small.map(({ ms }) => ms))),
      row("between operators", 0, ms - inNodes),
    ];
    const head = ["operator", "nodes", "ms", "share", ...bytesOf === undefined ? [] : ["MB", "GB/s"]];
    return `${name}, ${label}: ${ms.toFixed(2)} ms\n${table(head, rows)}`;
  }).join("\n\n");
}

/**
 * Steps of sessions that serve: `serving_steps.ts STEPS SEED`, with the operators that `ESPALIER_KERNELS` names. Tiny
 * decoders of every family; sequences are opened, prefilled, decoded, narrowed and closed at random. One that is closed is
 * run again from its beginning, alone and cut into other steps: the bits must be the same.
 */

import { deepEqual } from "node:assert/strict";
import { uniformInt } from "pure-rand/distribution/uniformInt";
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { openKernels } from "../../kernels/native_library.ts";
import { openArtefact } from "../../models/artefact.ts";
import { type Decoder, openDecoder, type Sequence } from "../../models/decoder.ts";
import { writeRandomArtefact } from "../../models/random_artefact.ts";
import { openRuntime } from "../../onnx/mod.ts";
import { TINY_ARTEFACTS } from "../support/tiny_models.ts";

/** Lanes; one is left for sequences that run again. */
const [LANES, MAX_TOKENS, MAX_ROWS] = [6, 100, 64] as const;

/** Steps of a session. */
const SESSION_STEPS = 200;

/** A sequence, its tokens, their logits, and the levels that it had: from which token on. */
interface Told {
  readonly sequence: Sequence;
  readonly tokens: number[];
  readonly logits: Float32Array[];
  readonly levels: { from: number; level: number }[];
}

const [steps, seed] = Deno.args.map(Number) as [number, number];
const random = xoroshiro128plus(seed);
const between = (least: number, most: number) => uniformInt(random, least, most);
const oneIn = (count: number) => between(1, count) === 1;

const { kernels, reason } = await openKernels();
if (kernels === null) throw new Error(`Cannot run our own operators: ${reason}`);
const { path: operators } = kernels;
const models = Object.values(TINY_ARTEFACTS);
let [done, rows] = [0, 0];
for (let session = 0; done < steps; session++) {
  const options = models[session % models.length]!;
  const folder = await Deno.makeTempDir();
  try {
    await writeRandomArtefact(folder, { ...options, blockSize: 32, seed: session });
    const artefact = await openArtefact(folder);
    using decoder = await openDecoder(openRuntime(), {
      plan: artefact.plan,
      weights: artefact.weights(),
      folder,
      lanes: LANES,
      maxTokens: MAX_TOKENS,
      maxRows: MAX_ROWS,
      threads: between(1, 3),
      operators,
    });
    const count = Math.min(SESSION_STEPS, steps - done);
    rows += await takeSteps(decoder, count);
    done += count;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
console.log(`${done} steps of ${rows} rows inside ONNX Runtime, seed ${seed}: the same bits when run again`);

/** @returns Rows of all steps. */
async function takeSteps(decoder: Decoder, count: number): Promise<number> {
  const { levels, config: { vocabSize } } = decoder.plan;
  let open: Told[] = [];
  let total = 0;
  for (let step = 0; step < count; step++) {
    for (const told of open.filter(({ sequence }) => sequence.length === MAX_TOKENS || oneIn(40))) {
      told.sequence.close();
      open = open.filter((other) => other !== told);
      await runAgain(decoder, told);
    }
    if (open.length === 0 || (open.length < LANES - 1 && oneIn(3))) {
      const level = between(0, levels - 1);
      const sequence = decoder.openSequence(level);
      open.push({ sequence, tokens: [], logits: [], levels: [{ from: 0, level }] });
    }
    for (const { sequence, levels: had } of open) {
      if (!decoder.narrows || sequence.level === levels - 1 || !oneIn(20)) continue;
      sequence.narrow(between(sequence.level + 1, levels - 1));
      had.push({ from: sequence.length, level: sequence.level });
    }
    const takers = open.filter(() => !oneIn(4));
    if (takers.length === 0) takers.push(open[0]!);
    let room = MAX_ROWS - takers.length;
    const entries = takers.map(({ sequence }) => {
      const wanted = sequence.length === 0 || oneIn(16) ? between(1, 40) : 1;
      const rows = Math.min(wanted, room + 1, MAX_TOKENS - sequence.length);
      room -= rows - 1;
      return {
        sequence,
        tokens: Array.from({ length: rows }, () => between(0, vocabSize - 1)),
        logits: "all" as const,
      };
    });
    const logits = await decoder.step(entries);
    for (const [i, { tokens, logits: rows }] of takers.entries()) {
      tokens.push(...entries[i]!.tokens);
      rows.push(logits[i]!.slice());
      total += entries[i]!.tokens.length;
    }
  }
  for (const told of open) {
    told.sequence.close();
    await runAgain(decoder, told);
  }
  return total;
}

async function runAgain(decoder: Decoder, { tokens, logits, levels }: Told): Promise<void> {
  const sequence = decoder.openSequence(levels[0]!.level);
  const again: number[] = [];
  try {
    for (const [i, { level }] of levels.entries()) {
      if (level !== sequence.level) sequence.narrow(level);
      const end = levels[i + 1]?.from ?? tokens.length;
      while (sequence.length < end) {
        const piece = tokens.slice(sequence.length, Math.min(end, sequence.length + between(1, 30)));
        const [found] = await decoder.step([{ sequence, tokens: piece, logits: "all" }]);
        again.push(...found!);
      }
    }
  } finally {
    sequence.close();
  }
  deepEqual(Float32Array.from(again), Float32Array.from(logits.flatMap((rows) => [...rows])));
}

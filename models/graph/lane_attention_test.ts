import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok, rejects } from "node:assert/strict";
import { openKernels } from "../../kernels/native_library.ts";
import { ElementType, GraphBuilder, openRuntime } from "../../onnx/mod.ts";
import { TINY_BAMBA, TINY_LLAMA, TINY_NEMOTRON_H } from "../../tests/support/tiny_models.ts";
import { arrayPlaces, cachesOf } from "../caches.ts";
import type { ModelConfig } from "../description.ts";
import { type AttentionPlan, planModel } from "../plan.ts";
import type { AttentionCore, RotatedAttention } from "./block_context.ts";
import { cachedAttention, cacheNames, type LaneInputs } from "./cached_attention.ts";
import { ownNode } from "./chain.ts";
import { laneArrayName, laneArrays } from "./lane_arrays.ts";
import { laneAttention } from "./lane_attention.ts";
import { afterRotation, rotaryOf } from "./rotary.ts";

const LANES = 4;
const CAPACITY = 48;

/** Positions that there are angles for: more, so that it is the operator that finds a cache too short. */
const TABLED = 2 * CAPACITY;

/** Rows and level of each lane, step after step: prompts, then single tokens beside another prompt; one lane is idle. */
const STEPS = [
  { rows: [7, 3, 0, 0], levels: [0, 1, 1, 1] },
  { rows: [1, 1, 21, 0], levels: [0, 1, 1, 1] },
  { rows: [2, 1, 1, 0], levels: [0, 1, 1, 1] },
] as const;

const { kernels } = await openKernels();

if (kernels !== null) {
  describe("laneAttention()", () => {
    for (const config of [TINY_LLAMA, TINY_BAMBA, TINY_NEMOTRON_H]) {
      it(`equals stock rotation and attention on a tiny ${config.family}, lane by lane`, async () => {
        const [ours, stock] = [await attend(config, kernels.path), await attend(config, null)];
        // Weighted means of values up to 2; weights agree to some 1e-6. No key here lies so near the middle of two halves
        // that it becomes one in ours and the other in stock's.
        ours.forEach((value, i) => ok(Math.abs(value - stock[i]!) < 2e-5, `${i}: ${value}, stock ${stock[i]}`));
        ok(ours.some((value) => Math.abs(value) > 0.1));
      });
    }

    it("gives the same bits on one thread and on two", async () => {
      deepEqual(await attend(TINY_LLAMA, kernels.path, 2), await attend(TINY_LLAMA, kernels.path, 1));
    });

    it("refuses rows that belong to no lane, and a cache or angles that are too few, by name", async () => {
      const tooMany = attend(TINY_LLAMA, kernels.path, 1, [{ rows: [7, 3, 0, 0], levels: [0, 1, 1, 1], surplus: 1 }]);
      await rejects(tooMany, /CachedAttention: 1 rows belong to no lane/);
      const tooLong = attend(TINY_LLAMA, kernels.path, 1, [{ rows: [49, 0, 0, 0], levels: [0, 1, 1, 1] }]);
      await rejects(tooLong, /CachedAttention: lane 0 has 49 tokens, its cache holds 48/);
      const step = { rows: [0, 33, 0, 0], levels: [1, 0, 1, 1], tabled: 32 };
      await rejects(attend(TINY_LLAMA, kernels.path, 1, [step]), /lane 1 has 33 tokens, there are angles for 32/);
    });

    it("refuses a level that there is none of, and arrays and places that do not fit, by name", async () => {
      const step = { rows: [7, 0, 0, 0], levels: [0, 1, 1, 1] };
      const attempt = (more: object) => attend(TINY_LLAMA, kernels.path, 1, [{ ...step, ...more }]);
      await rejects(attempt({ levels: [2, 1, 1, 1] }), /CachedAttention: lane 0 has .* level 2 of 2/);
      await rejects(attempt({ arrayFloats: 100 }), /CachedAttention: a lane's array has 100 floats, wanted 3072/);
      await rejects(attempt({ places: [0, 3072, 3000] }), /CachedAttention: cache 1 lies at 3072 to 3000/);
      await rejects(
        attempt({ places: [0, 3000, 6000] }),
        /keys of 3000 floats and values of 3000, wanted half of 64 a token/,
      );
    });
  });
}

/** Gives attention the keys and values that caches in half precision would. */
function ofHalves({ numAttentionHeads, numKeyValueHeads }: ModelConfig, core: RotatedAttention): RotatedAttention {
  return {
    attend(graph, packed, block) {
      const sizes = graph.integers([numAttentionHeads, 2 * numKeyValueHeads]);
      const [queries, others] = graph.ops("Split", [packed, sizes], 2, { attributes: { axis: 1 } });
      const halves = graph.op("Cast", [others!], { attributes: { to: ElementType.float16 } });
      const kept = graph.op("Cast", [halves], { attributes: { to: ElementType.float32 } });
      return core.attend(graph, graph.op("Concat", [queries!, kept], { attributes: { axis: 1 } }), block);
    },
  };
}

/** The attended rows of all steps, one after another. */
async function attend(
  config: ModelConfig,
  operators: string | null,
  threads = 1,
  steps: readonly {
    rows: readonly number[];
    levels: readonly number[];
    surplus?: number;
    arrayFloats?: number;
    places?: readonly number[];
    tabled?: number;
  }[] = STEPS,
): Promise<number[]> {
  const { numAttentionHeads, numKeyValueHeads, headDim } = config;
  const heads = numAttentionHeads + 2 * numKeyValueHeads;
  const spec = { kind: "attention" as const, widths: [headDim, headDim / 2], queryKeyBias: false, outputBias: false };
  const plan = planModel(config, [[spec]]);
  const block = plan.layers[0]![0] as AttentionPlan;
  const graph = new GraphBuilder();
  const packed = graph.input("packed", ElementType.float32, ["rows", heads, headDim]);
  const positions = graph.input("positions", ElementType.int64, ["rows"]);
  const lanes: LaneInputs = {
    count: LANES,
    rows: graph.input("lane_rows", ElementType.int64, [LANES]),
    levels: graph.input("lane_levels", ElementType.int64, [LANES]),
    lengths: graph.input("lane_lengths", ElementType.int32, [LANES]),
  };
  const core: AttentionCore = operators === null
    ? afterRotation(rotaryOf(graph, config, positions), ofHalves(config, cachedAttention(graph, config, lanes)))
    : laneAttention(graph, config, lanes, laneArrays(graph, plan, LANES), {
      capacity: steps[0]!.tabled ?? TABLED,
      add: ownNode,
    });
  const rotaryDim = config.rope.rotaryDim ?? headDim;
  const places = (group: number) =>
    Array.from({ length: headDim / 2 }, (_, i) => Math.min((i * 3 + group) % (headDim / 2), rotaryDim / 2));
  const pairs = rotaryDim === 0
    ? null
    : graph.integers(Array.from({ length: numKeyValueHeads }, (_, g) => places(g)).flat(), [
      numKeyValueHeads,
      headDim / 2,
    ]);
  graph.output("attended", core.attend(graph, packed, block, { pairs }), ElementType.float32);

  const runtime = openRuntime();
  using session = await runtime.openSession({
    model: graph.build(),
    threads,
    ...(operators !== null && { operators }),
  });
  using binding = session.bind();
  const attended: number[] = [];
  const lengths = new Int32Array(LANES);
  const integers = (list: readonly number[]) =>
    runtime.tensor(ElementType.int64, [list.length], BigInt64Array.from(list, BigInt));
  const unwritten = (shape: readonly number[]) =>
    runtime.tensor(ElementType.float32, shape, new Float32Array(shape.reduce((a, b) => a * b)).fill(NaN));
  if (operators !== null) {
    const places = steps[0]!.places ?? arrayPlaces(cachesOf(plan), CAPACITY);
    binding.input("cache_places", integers(places));
    const { arrayFloats = places.at(-1)! } = steps[0]!;
    for (let lane = 0; lane < LANES; lane++) binding.input(laneArrayName(lane), unwritten([arrayFloats]));
  }
  for (let lane = 0; operators === null && lane < LANES; lane++) {
    const shape = [1, numKeyValueHeads, CAPACITY, block.widths[steps.at(-1)!.levels[lane]!]!];
    const [key, value] = [unwritten(shape), unwritten(shape)];
    const names = cacheNames(block, lane);
    binding.input(names.pastKey, key).output(names.key, key).input(names.pastValue, value).output(names.value, value);
  }
  for (const { rows: laneRows, levels, surplus = 0 } of steps) {
    const rows = laneRows.reduce((sum, count) => sum + count, surplus);
    const width = laneRows.flatMap((count, lane) => Array<number>(count).fill(block.widths[levels[lane]!]!));
    const values = Float32Array.from(
      { length: rows * heads * headDim },
      (_, i) => i % headDim < (width[Math.floor(i / (heads * headDim))] ?? headDim) ? 2 * Math.sin(12.9898 * i) : 0,
    );
    const place = laneRows.flatMap((count, lane) => Array.from({ length: count }, (_, i) => lengths[lane]! + i));
    const out = new Float32Array(rows * numAttentionHeads * headDim);
    laneRows.forEach((count, lane) => lengths[lane]! += count);
    await binding
      .input("packed", runtime.tensor(ElementType.float32, [rows, heads, headDim], values))
      .input("positions", integers([...place, ...Array<number>(surplus).fill(0)]))
      .input("lane_rows", integers(laneRows))
      .input("lane_levels", integers(levels))
      .input(
        "lane_lengths",
        runtime.tensor(ElementType.int32, [LANES], lengths.map((length) => Math.max(length, 1))),
      )
      .output("attended", runtime.tensor(ElementType.float32, [rows, numAttentionHeads, headDim], out))
      .run();
    attended.push(...out);
  }
  return attended;
}

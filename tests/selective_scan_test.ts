import { describe as suite, it } from "@std/testing/bdd";
import { equal, notEqual, ok, rejects } from "node:assert/strict";
import { blockWidths } from "../compression/block_widths.ts";
import { openKernels } from "../kernels/native_library.ts";
import { specOf } from "../models/block_tensors.ts";
import { arrayPlaces, cachesOf, elementsOf } from "../models/caches.ts";
import { openCheckpoint } from "../models/checkpoint.ts";
import { mambaOf } from "../models/description.ts";
import type { LaneInputs } from "../models/graph/cached_attention.ts";
import { cachedStateSpace } from "../models/graph/cached_state_space.ts";
import { ownNode } from "../models/graph/chain.ts";
import { laneArrayName, laneArrays } from "../models/graph/lane_arrays.ts";
import { selectiveScan } from "../models/graph/selective_scan.ts";
import { stockMixer } from "../models/graph/stock_mixer.ts";
import type { Weights } from "../models/graph/weights.ts";
import { type MambaPlan, type ModelPlan, planAtLevel, planModel } from "../models/plan.ts";
import { PRUNING_RATES } from "../models/widths.ts";
import { ElementType, GraphBuilder, openRuntime } from "../onnx/mod.ts";
import { checkpointWeights } from "./support/float_weights.ts";

/**
 * Of the largest value. Both compute in float32 from the same rows; stock operators sum in another order. A few hundred
 * roundings of 6e-8 at most stand between a row and its result.
 */
const TOLERANCE = 2e-5;

const FIXTURES = ["mamba2_one_group", "mamba2_two_groups", "nemotron_h", "bamba_one_group", "bamba_two_groups"];

const { kernels, reason } = await openKernels();

suite("SelectiveScan", () => {
  if (kernels === null) {
    it.skip(`there are no kernels: ${reason}`, () => {});
    return;
  }
  const { path } = kernels;

  for (const name of FIXTURES) {
    it(`mixes the rows of ${name} as stock operators do: three sequences, every level, several steps`, async () => {
      const { plan, block, weights } = await fixture(name);
      const ours = await openMixer(plan, block, weights, path);
      const stock = await openMixer(plan, block, weights, null);
      try {
        for (const level of PRUNING_RATES.keys()) {
          const seats = [{ level: 0, rows: [1, 4] }, { level, rows: [5, 1] }, { level: 7, rows: [2, 3] }];
          const [found, wanted] = [await runSteps(ours, seats), await runSteps(stock, seats)];
          found.mixed.forEach((values, step) => closeTo(values, wanted.mixed[step]!));
          found.states.forEach((values, index) => closeTo(values, wanted.states[index]!));
        }
      } finally {
        ours.session.close();
        stock.session.close();
      }
    });
  }

  it("leaves the states of an idle lane alone", async () => {
    const { plan, block, weights } = await fixture("mamba2_two_groups");
    const mixer = await openMixer(plan, block, weights, path);
    try {
      const seats = [{ level: 0, rows: [3] }, { level: 0, rows: [0] }, { level: 0, rows: [0] }];
      const { states } = await runSteps(mixer, seats, { before: 0.5 });
      const each = states.length / 3;
      ok(states.slice(each).every((values) => values.every((value) => value === 0.5)));
      for (const values of states.slice(0, each)) ok(values.some((value) => value !== 0.5));
    } finally {
      mixer.session.close();
    }
  });

  it("mixes with a graph of one level what one of all levels gives", async () => {
    const { plan, block, weights } = await fixture("bamba_two_groups");
    for (const level of [3, 7]) {
      const narrowPlan = planAtLevel(plan, level);
      const narrowBlock = narrowPlan.layers.flat().find(({ name }) => name === block.name) as MambaPlan;
      const wide = await openMixer(plan, block, weights, path);
      const narrow = await openMixer(narrowPlan, narrowBlock, weights, path);
      const seat = (level: number) => [{ level, rows: [6] }, { level, rows: [0] }, { level, rows: [0] }];
      const [found, wanted] = [await runSteps(narrow, seat(0)), await runSteps(wide, seat(level))];
      wide.session.close();
      narrow.session.close();
      notEqual(narrow.width, wide.width);
      closeTo(found.mixed[0]!, wanted.mixed[0]!.filter((_, index) => index % wide.width < narrow.width));
    }
  });

  it("refuses rows and states that do not fit, by name", async () => {
    const { plan, block, weights } = await fixture("mamba2_one_group");
    const mixer = await openMixer(plan, block, weights, path);
    const idle = [{ level: 0, rows: [0] }, { level: 0, rows: [0] }];
    const one = [{ level: 0, rows: [2] }, ...idle];
    try {
      await rejects(runSteps(mixer, one, { columns: mixer.places.length - 1 }), /SelectiveScan: .* wanted \d+ a row/);
      await rejects(runSteps(mixer, one, { surplusRows: 1 }), /SelectiveScan: 1 rows belong to no lane/);
      await rejects(runSteps(mixer, one, { surplusRows: -1 }), /lane 0 has 2 rows of 1 that are left/);
      await rejects(runSteps(mixer, [{ level: 8, rows: [2] }, ...idle]), /SelectiveScan: lane 0 has level 8 of 8/);
      await rejects(runSteps(mixer, one, { arrayFloats: 16 }), /a lane's array has 16 floats, wanted \d+/);
      await rejects(
        runSteps(mixer, one, { places: ([convX, convBc, state]) => [convX!, convBc!, state!, state! + 16] }),
        /SelectiveScan: the place of state 2 has 16 floats, wanted \d+/,
      );
      equal((await runSteps(mixer, one)).mixed.length, 1);
    } finally {
      mixer.session.close();
    }
  });
});

/** The first Mamba block of a checkpoint, cut alike at every prepared rate. */
async function fixture(name: string): Promise<{ plan: ModelPlan; block: MambaPlan; weights: Weights }> {
  using checkpoint = await openCheckpoint(new URL(`fixtures/state_space/${name}`, import.meta.url).pathname);
  const { config, layers } = checkpoint.description;
  const widths = blockWidths(config, layers, layers.map(() => 0), {
    recipe: { layerRates: "uniform", influenceTemperature: 0.1 },
    blockSize: 32,
    rates: PRUNING_RATES,
  });
  const plan = planModel(config, layers.map((blocks, i) => blocks.map((block, j) => specOf(block, widths[i]![j]!))));
  const block = plan.layers.flat().find(({ kind }) => kind === "mamba") as MambaPlan;
  const { weights } = await checkpointWeights(checkpoint);
  return { plan: { ...plan, layers: [[block]] }, block, weights };
}

const LANES = 3;

/** A session from packed rows to mixed ones. @param operators Path of the library; null for stock operators. */
async function openMixer(plan: ModelPlan, block: MambaPlan, weights: Weights, operators: string | null) {
  const { config } = plan;
  const { numHeads: H, headDim, numGroups: G, stateSize } = mambaOf(config);
  const [P, N] = [block.widths[0]!, block.stateWidths[0]!];
  const axes = [[2 * H, P, headDim], [2 * G, N, stateSize], [H, 1, 1]] as const;
  /** Of every column of a packed row: its place where all axes are whole. */
  const places = axes.flatMap(([groups, width, full], axis) =>
    Array.from({ length: groups * width }, (_, i) => 10_000 * axis + Math.floor(i / width) * full + i % width)
  );
  const graph = new GraphBuilder();
  const packed = graph.input("packed", ElementType.float32, ["rows", "columns"]);
  const lanes: LaneInputs = {
    count: LANES,
    rows: graph.input("lane_rows", ElementType.int64, [LANES]),
    levels: graph.input("lane_levels", ElementType.int64, [LANES]),
    lengths: graph.integers(Array(LANES).fill(1)),
  };
  const split = () =>
    graph.ops("Split", [packed, graph.integers(axes.map(([groups, width]) => groups * width))], axes.length, {
      attributes: { axis: 1 },
    }).map((value, axis) => graph.op("Reshape", [value, graph.integers([-1, ...axes[axis]!.slice(0, 2)])]));
  const mixed = operators === null
    ? stockMixer(config, weights, cachedStateSpace(graph, config, lanes)).mix(graph, { each: split() }, block)
    : selectiveScan(config, weights, lanes, laneArrays(graph, plan, LANES), ownNode).mix(
      graph,
      { whole: packed },
      block,
    );
  graph.output("mixed", graph.op("Identity", [mixed]), ElementType.float32);
  const model = graph.build();
  const session = await openRuntime().openSession({ model, threads: 2, ...(operators !== null && { operators }) });
  return { session, places, heads: H, width: P, caches: cachesOf(plan), native: operators !== null };
}

type Mixer = Awaited<ReturnType<typeof openMixer>>;

/** Runs a lane's rows step after step: what is mixed in each, and every lane's states after the last. */
async function runSteps(
  { session, places, heads, width, caches, native }: Mixer,
  seats: readonly { level: number; rows: readonly number[] }[],
  { before = 0, surplusRows = 0, columns = places.length, arrayFloats, places: placesOf = (places) => places }: {
    /** Value of all states at first. */
    before?: number;
    surplusRows?: number;
    columns?: number;
    /** Of a lane's array, if not all that its caches need. */
    arrayFloats?: number;
    /** Other places of the caches than the right ones. */
    places?: (places: readonly number[]) => readonly number[];
  } = {},
) {
  const runtime = openRuntime();
  using binding = session.bind();
  const integers = (values: readonly number[]) =>
    runtime.tensor(ElementType.int64, [values.length], BigInt64Array.from(values, BigInt));
  const begins = arrayPlaces(caches, 1);
  if (native) binding.input("cache_places", integers(placesOf(begins)));
  /** Lane by lane, cache by cache. */
  const states = seats.flatMap(({ level, rows }, lane) => {
    // A stock lane that is idle wants states of one channel; one that is idle only now keeps its own.
    const idle = rows.every((count) => count === 0);
    const shapes = caches.map((cache) => idle ? cache.idle : cache.shape(Math.min(level, PRUNING_RATES.length - 1), 1));
    if (native) {
      const array = new Float32Array(arrayFloats ?? begins.at(-1)!).fill(before);
      binding.input(laneArrayName(lane), runtime.tensor(ElementType.float32, [array.length], array));
      return shapes.map((shape, index) => array.subarray(begins[index], begins[index]! + elementsOf(shape)));
    }
    return shapes.map((shape, index) => {
      const array = new Float32Array(elementsOf(shape)).fill(before);
      const tensor = runtime.tensor(ElementType.float32, shape, array);
      const { past, present } = caches[index]!.names(lane);
      binding.input(past, tensor).output(present, tensor);
      return array;
    });
  });
  binding.input("lane_levels", integers(seats.map(({ level }) => level)));
  const mixed: Float32Array[] = [];
  for (let step = 0; step < seats[0]!.rows.length; step++) {
    const counts = seats.map(({ rows }) => rows[step]!);
    const rows = counts.reduce((sum, count) => sum + count, surplusRows);
    const packed = Float32Array.from(
      { length: rows * columns },
      (_, i) => 2 * Math.sin(7.3 * places[i % columns]! + 11.9 * Math.floor(i / columns) + step),
    );
    const out = new Float32Array(rows * heads * width);
    binding.input("lane_rows", integers(counts));
    binding.input("packed", runtime.tensor(ElementType.float32, [rows, columns], packed));
    binding.output("mixed", runtime.tensor(ElementType.float32, [rows, heads, width], out));
    await binding.run();
    mixed.push(out);
  }
  return { mixed, states };
}

function closeTo(actual: Float32Array, expected: Float32Array): void {
  equal(actual.length, expected.length);
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 1e-30);
  const error = expected.reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i]!)), 0) / scale;
  ok(error < TOLERANCE, `off by ${error} of the largest value`);
}

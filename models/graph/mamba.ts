import { type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import { type MambaConfig, mambaOf } from "../description.ts";
import { blockVectors, mambaInputMatrix, mambaOutputMatrix, type MambaPlan, runWidth } from "../plan.ts";
import { chunkWidth } from "../widths.ts";
import type { BlockContext } from "./block_context.ts";
import { cutInputs, cutOutputs } from "./elastic_linear.ts";
import { rmsNorm } from "./norm.ts";

/**
 * A Mamba-2 mixer: `x + output(gatedNorm(ssd(...) ⊙ silu(z)))`, see `MambaBlock`.
 *
 * Segments of the input projection join to full heads and groups before the convolution. Rows of narrow levels are zero
 * in the channels that they lack, so the gated norm's sum is right at every level, and its mean is always taken over the
 * channels of the whole model (uniql.md §9.4).
 *
 * @param x `[rows, D]`
 * @returns `[rows, D]`
 */
export function mamba(graph: GraphBuilder, x: Value, block: MambaPlan, context: BlockContext): Value {
  const { config, weights, gates, stateSpace, tap } = context;
  const sizes = mambaOf(config);
  const { numHeads: H, headDim: P, numGroups: G, stateSize: N, convKernel } = sizes;
  const lengths = new Map(blockVectors(config, block).map(({ name, length }) => [name, length]));
  const vector = (part: string, ...shape: number[]) => {
    const name = `${block.name}.${part}`;
    const stored = weights.vector(graph, name, lengths.get(name)!);
    return shape.length === 0 ? stored : graph.op("Reshape", [stored, graph.integers(shape)]);
  };
  const normed = rmsNorm(graph, x, vector("norm"), config.rmsNormEps);
  tap?.(`${block.name}.input`, normed);

  const { gate, channels, states, steps } = project(graph, normed, block, context);
  const delta = discretize(graph, graph.op("Add", [steps, vector("dt_bias")]), sizes);
  const decay = graph.op("Mul", [delta, graph.op("Neg", [graph.op("Exp", [vector("a_log")])])]);
  tap?.(`${block.name}.delta`, delta);
  tap?.(`${block.name}.decay`, decay);
  const mixed = stateSpace.mix(
    graph,
    { x: channels, bc: states, delta, decay },
    {
      convX: { weight: vector("conv_x", H, P, convKernel), bias: block.convBias ? vector("conv_x_bias", H, P) : null },
      convBc: {
        weight: vector("conv_bc", 2 * G, N, convKernel),
        bias: block.convBias ? vector("conv_bc_bias", 2 * G, N) : null,
      },
      skip: block.skipPerChannel ? vector("skip", H, P) : vector("skip", H, 1),
    },
    block,
    tap && ((name, value) => tap(`${block.name}.${name}`, value)),
  );

  const silu = graph.op("QuickGelu", [gate], { domain: MICROSOFT, attributes: { alpha: { float: 1 } } });
  const product = graph.op("Mul", [mixed, silu]);
  const normedHeads = gatedNorm(graph, product, vector("gated_norm", H, P), {
    sizes,
    width: block.widths[0]!,
    epsilon: config.rmsNormEps,
  });
  const pieces = block.chunks.map((chunk, index) => {
    const whole = block.chunks.length === 1;
    const kept = whole ? normedHeads : gates.takeComponents(graph, normedHeads, chunk.level, chunk.start, chunk.end);
    return { value: graph.op("Reshape", [kept, graph.integers([-1, H * chunkWidth(chunk)])]), chunk, index };
  });
  for (const { value, index } of pieces) tap?.(`${block.name}.gated.${index}`, value);
  return cutInputs(graph, {
    pieces,
    matrixOf: (index) => mambaOutputMatrix(config, block, index),
    gates,
    weights,
    residual: x,
  });
}

/** The input projection: z and x `[rows, H, widest]`, B's and C's groups `[rows, 2G, widest]`, dt `[rows, H]`. */
function project(graph: GraphBuilder, normed: Value, block: MambaPlan, { config, weights, gates }: BlockContext) {
  const { numHeads: H, numGroups: G } = mambaOf(config);
  const channels: Value[] = [];
  const states: Value[] = [];
  let steps: Value | undefined;
  const segments = cutOutputs(graph, {
    x: normed,
    chunks: block.inputChunks,
    matrixOf: (index) => mambaInputMatrix(config, block, index),
    gates,
    weights,
  });
  for (const { value, chunk, index } of segments) {
    const { channels: c, states: s } = block.inputChunks[index]!;
    const parts = [
      { heads: 2 * H, width: runWidth(c), to: channels },
      { heads: 2 * G, width: runWidth(s), to: states },
    ].filter(({ width }) => width > 0);
    const sizes = [...parts.map(({ heads, width }) => heads * width), ...(index === 0 ? [H] : [])];
    const restored = gates.restore(graph, value, chunk.level);
    const pieces = sizes.length === 1
      ? [restored]
      : graph.ops("Split", [restored, graph.integers(sizes)], sizes.length, { attributes: { axis: 1 } });
    parts.forEach(({ heads, width, to }, at) =>
      to.push(graph.op("Reshape", [pieces[at]!, graph.integers([-1, heads, width])]))
    );
    if (index === 0) steps = pieces.at(-1)!;
  }
  const join = (values: Value[]) =>
    values.length === 1 ? values[0]! : graph.op("Concat", values, { attributes: { axis: 2 } });
  const [gate, x] = graph.ops("Split", [join(channels)], 2, { attributes: { axis: 1, num_outputs: 2 } });
  return { gate: gate!, channels: x!, states: join(states), steps: steps! };
}

/** Δ from dt with its bias added. */
function discretize(graph: GraphBuilder, steps: Value, { timeStepLimit: [min, max] }: MambaConfig): Value {
  const positive = graph.op("Softplus", [steps]);
  if (min === 0 && max === null) return positive;
  const limits = [graph.floats(min), ...(max === null ? [] : [graph.floats(max)])];
  return graph.op("Clip", [positive, ...limits]);
}

/**
 * `x / sqrt(mean(x²) + epsilon) ⊙ weight`, the mean over the heads of each group.
 *
 * A graph of one narrow level lacks channels, so that an average over those it has would be too large by P/width: it is
 * corrected in the epsilon and the weight.
 *
 * @param x `[rows, H, width]`
 * @param weight `[H, P]`
 * @returns `[rows, H, width]`
 */
function gatedNorm(
  graph: GraphBuilder,
  x: Value,
  weight: Value,
  { sizes, width, epsilon }: { sizes: MambaConfig; width: number; epsilon: number },
): Value {
  const { numHeads: H, headDim: P, numGroups: G } = sizes;
  const kept = width / P;
  const groupWidth = H / G * width;
  const narrow = kept === 1 ? weight : graph.op("Mul", [
    graph.op("Slice", [weight, graph.integers([0]), graph.integers([width]), graph.integers([1])]),
    graph.floats(kept ** -0.5),
  ]);
  const flat = graph.op("Reshape", [x, graph.integers([-1, G, groupWidth])]);
  const one = G === 1;
  const scale = one
    ? graph.op("Reshape", [narrow, graph.integers([-1])])
    : graph.floats(new Float32Array(groupWidth).fill(1), [groupWidth]);
  const normed = graph.op("Reshape", [
    rmsNorm(graph, flat, scale, epsilon / kept),
    graph.integers([-1, H, width]),
  ]);
  return one ? normed : graph.op("Mul", [normed, narrow]);
}

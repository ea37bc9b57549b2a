import { type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import { type MambaConfig, mambaOf, type ModelConfig } from "../description.ts";
import { blockVectors } from "../plan.ts";
import { rmsNorm } from "./norm.ts";
import type { StateSpaceCore, StateSpaceMixer } from "./state_space.ts";
import type { Weights } from "./weights.ts";

/**
 * A mixer of stock operators around a core.
 *
 * Rows of narrow levels are zero in the channels that they lack, so the gated norm's sum is right at every level, and its
 * mean is always taken over the channels of the whole model (uniql.md §9.4).
 */
export function stockMixer(config: ModelConfig, weights: Weights, core: StateSpaceCore): StateSpaceMixer {
  return {
    mix(graph, projected, block, tap) {
      if (!("each" in projected)) throw new TypeError("Cannot mix axes that lie side by side with stock operators");
      const sizes = mambaOf(config);
      const { numHeads: H, headDim: P, numGroups: G, stateSize: N, convKernel } = sizes;
      const [channels, states, steps] = projected.each;
      const lengths = new Map(blockVectors(config, block).map(({ name, length }) => [name, length]));
      const vector = (part: string, ...shape: number[]) => {
        const name = `${block.name}.${part}`;
        const stored = weights.vector(graph, name, lengths.get(name)!);
        return shape.length === 0 ? stored : graph.op("Reshape", [stored, graph.integers(shape)]);
      };
      const [gate, x] = graph.ops("Split", [channels!], 2, { attributes: { axis: 1, num_outputs: 2 } });
      const dt = graph.op("Reshape", [steps!, graph.integers([-1, H])]);
      const delta = discretize(graph, graph.op("Add", [dt, vector("dt_bias")]), sizes);
      const decay = graph.op("Mul", [delta, graph.op("Neg", [graph.op("Exp", [vector("a_log")])])]);
      tap?.("delta", delta);
      tap?.("decay", decay);
      const mixed = core.mix(
        graph,
        { x: x!, bc: states!, delta, decay },
        {
          convX: {
            weight: vector("conv_x", H, P, convKernel),
            bias: block.convBias ? vector("conv_x_bias", H, P) : null,
          },
          convBc: {
            weight: vector("conv_bc", 2 * G, N, convKernel),
            bias: block.convBias ? vector("conv_bc_bias", 2 * G, N) : null,
          },
          skip: block.skipPerChannel ? vector("skip", H, P) : vector("skip", H, 1),
        },
        block,
        tap,
      );
      const silu = graph.op("QuickGelu", [gate!], { domain: MICROSOFT, attributes: { alpha: { float: 1 } } });
      return gatedNorm(graph, graph.op("Mul", [mixed, silu]), vector("gated_norm", H, P), {
        sizes,
        width: block.widths[0]!,
        epsilon: config.rmsNormEps,
      });
    },
  };
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

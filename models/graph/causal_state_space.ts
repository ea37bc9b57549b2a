import type { Value } from "../../onnx/mod.ts";
import { mambaOf, type ModelConfig } from "../description.ts";
import { causalConvolution, gatedLinearAttention, type StateSpaceCore, wholeSequences } from "./state_space.ts";

/** A Mamba block's core over the rows of one whole sequence: calibration and dense evaluation. */
export function causalStateSpace(config: ModelConfig): StateSpaceCore {
  return wholeSequences(config, {
    convolve(graph, channels, weight, bias) {
      const sequence = graph.op("Unsqueeze", [channels, graph.integers([0])]);
      const [convolved] = causalConvolution(graph, { channels: sequence, weight, bias, past: null });
      return graph.op("Squeeze", [convolved!, graph.integers([0])]);
    },
    scan(graph, { x, b, c, decay }) {
      const sequence = (value: Value) =>
        graph.op("Unsqueeze", [graph.op("Flatten", [value], { attributes: { axis: 1 } }), graph.integers([0])]);
      const [mixed] = gatedLinearAttention(graph, config, {
        query: sequence(c),
        key: sequence(b),
        value: sequence(x),
        decay: sequence(decay),
        past: null,
      });
      const { numHeads, headDim } = mambaOf(config);
      return graph.op("Reshape", [mixed!, graph.integers([-1, numHeads, headDim])]);
    },
  });
}

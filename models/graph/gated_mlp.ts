import { type GraphBuilder, MICROSOFT, type Value } from "../../onnx/mod.ts";
import { downMatrix, type GatedMlpPlan, gateUpMatrix } from "../plan.ts";
import { cutInputs, cutOutputs } from "./elastic_linear.ts";
import type { BlockContext } from "./block_context.ts";
import { rmsNorm } from "./norm.ts";

/**
 * `x + down(silu(gate(n)) ⊙ up(n))` with `n = norm(x)`.
 *
 * Gate, up, activation and down of one chunk form one branch; only its result is joined with the others.
 *
 * @param x `[rows, D]`
 * @returns `[rows, D]`
 */
export function gatedMlp(graph: GraphBuilder, x: Value, block: GatedMlpPlan, context: BlockContext): Value {
  const { config, weights, gates, tap } = context;
  const normed = rmsNorm(graph, x, weights.vector(graph, `${block.name}.norm`, config.hiddenSize), config.rmsNormEps);
  tap?.(`${block.name}.input`, normed);
  const gateUp = cutOutputs(graph, {
    x: normed,
    chunks: block.chunks,
    matrixOf: (index) => gateUpMatrix(config, block, index),
    gates,
    weights,
  });
  const hidden = gateUp.map((piece) => ({ ...piece, value: activate(graph, piece.value) }));
  for (const { value, index } of hidden) tap?.(`${block.name}.hidden.${index}`, value);
  return cutInputs(graph, {
    pieces: hidden,
    matrixOf: (index) => downMatrix(config, block, index),
    gates,
    weights,
    residual: x,
  });
}

/** `silu(gate) ⊙ up`: `[e, 2n]` → `[e, n]`. */
function activate(graph: GraphBuilder, gateUp: Value): Value {
  const [gate, up] = graph.ops("Split", [gateUp], 2, { attributes: { axis: 1, num_outputs: 2 } });
  // QuickGelu is x · sigmoid(alpha · x): SiLU in one node.
  const silu = graph.op("QuickGelu", [gate!], { domain: MICROSOFT, attributes: { alpha: { float: 1 } } });
  return graph.op("Mul", [silu, up!]);
}

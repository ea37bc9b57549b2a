import { ABSENT, MICROSOFT } from "../mod.ts";
import { integerAttribute, knowOnly, onlyGradient, type Rule, unbroadcast } from "./rule.ts";

/** Matrix products. */
export const MATRIX: Readonly<Record<string, Rule>> = {
  /** Operands of rank 2 and more: without shapes, a vector could not be told from a matrix. */
  MatMul(node) {
    const { graph, inputs: [a, b] } = node;
    const gradient = onlyGradient(node);
    // The fused operator transposes the last two axes whatever the rank.
    const product = (left: typeof gradient, right: typeof gradient, attributes: Record<string, number>) =>
      graph.op("FusedMatMul", [left, right], { domain: MICROSOFT, attributes });
    return [
      () => unbroadcast(graph, product(gradient, b!, { transB: 1 }), a!),
      () => unbroadcast(graph, product(a!, gradient, { transA: 1 }), b!),
    ];
  },

  Gemm(node) {
    const { graph, inputs: [a, b, c] } = node;
    knowOnly(node, ["transA", "transB"]);
    const gradient = onlyGradient(node);
    const transA = integerAttribute(node, "transA", 0);
    const transB = integerAttribute(node, "transB", 0);
    const product = (left: typeof gradient, right: typeof gradient, transA: number, transB: number) =>
      graph.op("Gemm", [left, right], { attributes: { transA, transB } });
    return [
      () => transA ? product(b!, gradient, transB, 1) : product(gradient, b!, 0, 1 - transB),
      () => transB ? product(gradient, a!, 1, transA) : product(a!, gradient, 1 - transA, 0),
      c === undefined || c === ABSENT ? null : () => unbroadcast(graph, gradient, c),
    ];
  },
};

import { type LinearAlgebra, matrix } from "../kernels/matrix.ts";
import type { Floats } from "../models/floats.ts";
import { type HiddenStates, normalized } from "./hidden_states.ts";

/**
 * `XᵀX`, `[D, D]`, of what the head reads: rows after the last norm, multiplied with themselves.
 *
 * @param norm The last norm's weight, `[D]`.
 */
export async function gramOfHeadInputs(
  algebra: LinearAlgebra,
  hidden: HiddenStates,
  norm: Floats,
  epsilon: number,
): Promise<Floats> {
  const D = norm.length;
  const gram = new Float32Array(D * D);
  for (const window of hidden.windows) {
    const normed = normalized(window, norm, epsilon);
    await algebra.gram(matrix(normed, normed.length / D, D), matrix(gram, D, D), { beta: 1 });
  }
  return gram;
}

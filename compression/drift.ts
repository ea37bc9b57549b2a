import { type LinearAlgebra, matrix } from "../kernels/matrix.ts";
import type { Floats } from "../models/floats.ts";
import { factorHessian } from "./hessian.ts";

/**
 * λ of the regression, as a share of the mean diagonal of `XᵀX`.
 *
 * Much of what goes wrong belongs to single tokens, such as the rounding of their embeddings, and with little λ the
 * regression learns those of the calibration text by heart. What is still wrong in the stream after two layers of
 * SmolLM2-135M (32 windows of 512 tokens, stream alone corrected; mean relative error on the calibration text, and on two
 * others): 0.069, 0.075, 0.079 without a correction; 0.043, 0.075, 0.079 with a λ of 0.01; 0.056, 0.069, 0.072 with 2.
 */
const RIDGE = 1;

/**
 * Moves a weight so that its outputs make up for what went wrong before it.
 *
 * On the inputs X of the quantized network the outputs fall short by E of what they are in the unmodified one. The ridge
 * regression of E on X is added to the weight: `W + (EᵀX)·(XᵀX + λ)⁻¹`. What is then quantized stands for the unmodified
 * network's outputs instead of W's own.
 *
 * @param weight `[outFeatures, K]`
 * @param missing `EᵀX`, `[outFeatures, K]`.
 * @param gram `XᵀX`, `[K, K]`.
 * @see GPTAQ, https://arxiv.org/abs/2504.02692, and Qronos, https://arxiv.org/abs/2505.11695, for what goes wrong in a
 * projection's inputs; LoaQ, https://arxiv.org/abs/2509.06297, for the residual stream.
 */
export async function withoutDrift(
  algebra: LinearAlgebra,
  weight: Floats,
  { missing, gram }: { missing: Floats; gram: Floats },
): Promise<Floats> {
  const inFeatures = Math.sqrt(gram.length);
  const rows = weight.length / inFeatures;
  const { inverseFactor } = await factorHessian(algebra, gram, inFeatures, RIDGE);
  const inverse = matrix(inverseFactor, inFeatures, inFeatures);
  const half = matrix(new Float32Array(weight.length), rows, inFeatures);
  const corrected = weight.slice();
  await algebra.multiply(matrix(missing, rows, inFeatures), inverse, half, { transposeB: true });
  await algebra.multiply(half, inverse, matrix(corrected, rows, inFeatures), { beta: 1 });
  return corrected;
}

/** The same where outputs fall short because inputs do, by D: `E = D·Wᵀ`. @param drift `DᵀX`, `[K, K]`. */
export async function withoutInputDrift(
  algebra: LinearAlgebra,
  weight: Floats,
  { drift, gram }: { drift: Floats; gram: Floats },
): Promise<Floats> {
  const inFeatures = Math.sqrt(gram.length);
  const rows = weight.length / inFeatures;
  const missing = new Float32Array(weight.length);
  await algebra.multiply(
    matrix(weight, rows, inFeatures),
    matrix(drift, inFeatures, inFeatures),
    matrix(missing, rows, inFeatures),
  );
  return await withoutDrift(algebra, weight, { missing, gram });
}

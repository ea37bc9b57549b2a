/** The bands of every Llama 3 that scales its positions (3.1, 3.2, 3.3); only the factor differs. */
const LLAMA3_BANDS = { low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };

/**
 * Recovers the configuration from the frequency divisors that a GGUF file has in its place (`rope_freqs.weight`).
 *
 * @param divisors `[K/2]`: the frequency of pair `i` is `theta^(-2i/K) / divisors[i]`.
 * @returns `rope_scaling` as Hugging Face writes it; `null` where every divisor is 1.
 * @throws {RangeError} If no configuration with Llama 3's bands gives these divisors.
 */
export function ropeScalingFromDivisors(divisors: Float32Array, theta: number): Record<string, unknown> | null {
  const factor = divisors.reduce((largest, divisor) => Math.max(largest, divisor), 1);
  if (divisors.every((divisor) => divisor === 1)) return null;

  const expected = llama3Divisors(divisors.length, theta, factor);
  // The divisors were rounded to float32 once, after a computation in float32 or better.
  const misfit = divisors.findIndex((divisor, i) => !(Math.abs(divisor / expected[i]! - 1) < 1e-4));
  if (misfit >= 0) {
    throw new RangeError(
      `Cannot recover the RoPE scaling from rope_freqs.weight: divisor ${misfit} is ${divisors[misfit]}, ` +
        `and Llama 3's bands with the factor ${factor} give ${expected[misfit]}`,
    );
  }
  return { rope_type: "llama3", factor, ...LLAMA3_BANDS };
}

/** @see The Llama 3 Herd of Models, https://arxiv.org/abs/2407.21783 */
function llama3Divisors(pairs: number, theta: number, factor: number): number[] {
  const { low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: context } = LLAMA3_BANDS;
  return Array.from({ length: pairs }, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** (i / pairs);
    // 0: stretched by the whole factor; 1: as it was.
    const kept = Math.min(Math.max((context / wavelength - low) / (high - low), 0), 1);
    return 1 / ((1 - kept) / factor + kept);
  });
}

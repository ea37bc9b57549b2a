/**
 * Draws a token from the most likely ones that together have the probability `topP`, at a temperature.
 *
 * @param temperature Above 0; probabilities are raised to its inverse.
 * @param topP In (0, 1].
 * @param random Uniform in [0, 1).
 */
export function sampleToken(
  logits: Float32Array,
  { temperature, topP, random }: { temperature: number; topP: number; random: () => number },
): number {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const weights = logits.map((logit) => Math.exp((logit - top) / temperature));
  const total = weights.reduce((a, b) => a + b);
  let [least, kept] = [0, total];
  if (topP < 1) {
    const rising = weights.toSorted();
    let at = 0;
    while (kept - rising[at]! >= topP * total) kept -= rising[at++]!;
    least = rising[at]!;
  }
  let draw = random() * kept;
  let last = 0;
  for (const [id, weight] of weights.entries()) {
    if (weight < least) continue;
    last = id;
    draw -= weight;
    if (draw < 0) break;
  }
  return last; // also where rounding leaves a rest to draw from
}

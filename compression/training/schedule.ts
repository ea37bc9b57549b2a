/** How the learning rate runs over a training. */
export interface Schedule {
  readonly steps: number;
  readonly warmUpSteps: number;
  readonly peak: number;
  /** Reached at the last step. */
  readonly end: number;
}

/** Linear warm-up to the peak, then half a cosine down to the end. @param step From 0 to `steps` − 1. */
export function learningRateAt(step: number, { steps, warmUpSteps, peak, end }: Schedule): number {
  if (step < warmUpSteps) return peak * (step + 1) / warmUpSteps;
  const progress = (step - warmUpSteps) / Math.max(1, steps - 1 - warmUpSteps);
  return end + (peak - end) * (1 + Math.cos(Math.PI * Math.min(1, progress))) / 2;
}

/** How far a running sequence is. */
export interface Progress {
  readonly promptLength: number;
  /** Prompt tokens that steps have taken. */
  readonly prefilled: number;
}

/** A sequence's part in the next step. */
export interface ScheduledRows<S extends Progress> {
  readonly sequence: S;
  readonly phase: "prefill" | "decode";
  readonly rows: number;
}

/**
 * Chooses the next step: one row of every sequence that decodes, and up to `prefillChunk` rows of prompts, the first
 * ones first. So no prompt holds back a running answer for longer than one chunk, and short prompts share a chunk.
 *
 * @param running The most urgent first.
 */
export function scheduleStep<S extends Progress>(running: readonly S[], prefillChunk: number): ScheduledRows<S>[] {
  const step: ScheduledRows<S>[] = [];
  let room = prefillChunk;
  for (const sequence of running) {
    const missing = sequence.promptLength - sequence.prefilled;
    if (missing === 0) {
      step.push({ sequence, phase: "decode", rows: 1 });
    } else if (room > 0) {
      const rows = Math.min(missing, room);
      step.push({ sequence, phase: "prefill", rows });
      room -= rows;
    }
  }
  return step;
}

import type { Limits } from "./limits.ts";
import { type HoldOptions, holdsPrompts, stepsOfPrompt } from "./prompt_hold.ts";
import type { StepPart } from "./step_costs.ts";

/** What a sequence still needs. */
export interface Work {
  readonly level: number;
  /** Prompt tokens that no step has taken. */
  readonly promptTokens: number;
  /** Tokens in its cache. */
  readonly context: number;
  /** Tokens of its answer that are still to come; one at least. */
  readonly newTokens: number;
  /** Prompts are taken in the order of these, the earliest first. */
  readonly instantMs: number;
  /** When its tokens are due. */
  readonly limits: Pick<Limits, "firstTokenMs" | "lastTokenMs">;
}

/** Milliseconds from now. */
export interface Finish {
  readonly startMs: number;
  readonly firstTokenMs: number;
  readonly lastTokenMs: number;
}

export interface Schedule {
  readonly running: readonly Work[];
  /** In the order in which they get slots. */
  readonly waiting: readonly Work[];
  readonly slots: number;
  /** Prompt rows of one step. */
  readonly prefillChunk: number;
  /** Milliseconds until the present step ends. */
  readonly busyMs: number;
  /** Milliseconds of a step. */
  readonly stepMs: (parts: readonly StepPart[]) => number;
  /** How far predictions can be trusted where prompts are held back for answers; `null` where they never are. */
  readonly hold: Pick<HoldOptions, "safe" | "likely"> | null;
}

/** Changed in place from step to step, for a forecast runs through many. */
type Part = { -readonly [Key in keyof StepPart]: StepPart[Key] };

/** A sequence on its way. */
class Lane {
  readonly part: Part;
  startMs: number;
  firstTokenMs = NaN;
  lastTokenMs = NaN;
  promptTokens: number;
  newTokens: number;

  constructor(readonly work: Work, startMs: number) {
    this.part = { level: work.level, phase: "prefill", rows: 0, context: work.context };
    this.startMs = startMs;
    this.promptTokens = work.promptTokens;
    this.newTokens = work.newTokens;
  }
}

/**
 * Runs the scheduler ahead: the same steps that `scheduleStep()` would choose, prompts held back included, with predicted
 * times. Steps that only decode are alike but for their contexts, so all until the next event are taken at once.
 *
 * @returns When each running and waiting sequence starts and ends, in the given orders.
 */
export function forecastSchedule(
  { running, waiting, slots, prefillChunk, busyMs, stepMs, hold }: Schedule,
): { readonly running: readonly Finish[]; readonly waiting: readonly Finish[] } {
  const started = running.map((work) => new Lane(work, 0));
  const queued = waiting.map((work) => new Lane(work, NaN));
  let lanes = started.toSorted((a, b) => a.work.instantMs - b.work.instantMs);
  const enter = (lane: Lane) => {
    const later = lanes.findIndex(({ work }) => work.instantMs > lane.work.instantMs);
    lanes.splice(later < 0 ? lanes.length : later, 0, lane);
  };
  let [open, next, now] = [started.length + queued.length, 0, busyMs];

  while (open > 0) {
    while (lanes.length < slots && next < queued.length) {
      const lane = queued[next++]!;
      lane.startMs = now;
      enter(lane);
    }

    let room = prefillChunk;
    let steps = Infinity;
    const parts: Part[] = [];
    for (const { part, promptTokens, newTokens } of lanes) {
      part.phase = promptTokens > 0 ? "prefill" : "decode";
      part.rows = promptTokens > 0 ? Math.min(promptTokens, room) : 1;
      if (part.phase === "prefill") [room, steps] = [room - part.rows, 1];
      else steps = Math.min(steps, newTokens);
      if (part.rows > 0) parts.push(part);
    }
    let ms = meanStepMs(parts, steps, stepMs);
    if (hold !== null && room < prefillChunk && parts.some(({ phase }) => phase === "decode")) {
      const decoding = lanes.filter(({ part }) => part.phase === "decode");
      const prompts = lanes.filter(({ part }) => part.phase === "prefill" && part.rows > 0);
      const alone = decoding.map(({ part }) => part);
      const decodeMs = stepMs(alone);
      const awaited = ({ newTokens, work: { limits }, promptTokens, part: { rows } }: Lane) => ({
        newTokens,
        leftMs: limits.lastTokenMs - now,
        firstLeftMs: limits.firstTokenMs - now,
        steps: stepsOfPrompt({ promptTokens, rows, prefillChunk }),
      });
      const answers = { decoding: decoding.map(awaited), prompts: prompts.map(awaited) };
      if (holdsPrompts({ ...answers, mixedMs: ms, decodeMs, ...hold })) {
        for (const { part } of prompts) part.rows = 0;
        steps = Math.min(...decoding.map(({ newTokens }) => newTokens));
        ms = meanStepMs(alone, steps, stepMs);
      }
    }
    now += steps * ms;

    let ended = 0;
    for (const lane of lanes) {
      const { part } = lane;
      if (part.phase === "prefill") {
        part.context += part.rows;
        lane.promptTokens -= part.rows;
        if (lane.promptTokens > 0) continue;
        lane.firstTokenMs = now;
        lane.newTokens -= 1;
      } else {
        if (Number.isNaN(lane.firstTokenMs)) lane.firstTokenMs = now;
        part.context += steps;
        lane.newTokens -= steps;
      }
      if (lane.newTokens > 0) continue;
      lane.lastTokenMs = now;
      ended++;
    }
    if (ended === 0) continue;
    lanes = lanes.filter(({ newTokens }) => newTokens > 0);
    open -= ended;
  }
  return { running: started, waiting: queued };
}

/** Milliseconds of each of some steps alike, whose contexts grow by a token in each. */
function meanStepMs(parts: readonly Part[], steps: number, stepMs: Schedule["stepMs"]): number {
  for (const part of parts) part.context += (steps - 1) / 2;
  const ms = stepMs(parts);
  for (const part of parts) part.context -= (steps - 1) / 2;
  return ms;
}

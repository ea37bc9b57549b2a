import { RandomDraws } from "./random.ts";

/** How much time a request is given: little, or much. */
export const BUDGET_CLASSES = ["tight", "loose"] as const;
export type BudgetClass = typeof BUDGET_CLASSES[number];

/** What one request of a trace asks for. */
export interface TraceWork {
  readonly promptTokens: number;
  readonly newTokens: number;
  readonly budgetClass: BudgetClass;
}

/** A request and when it arrives. */
export interface TraceRequest extends TraceWork {
  /** Since the start of the trace. */
  readonly arrivalMs: number;
}

/** How the offered load moves over time. `gamma` keeps its mean. */
export const SHAPES_OF_LOAD = ["gamma", "step", "sine"] as const;
export type ShapeOfLoad = typeof SHAPES_OF_LOAD[number];

export interface LengthOptions {
  readonly seed: number;
  /** Medians. Lengths are log-normal around them, from a quarter to four times as long. */
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Share of requests with a tight budget. */
  readonly tightShare: number;
}

/** Standard deviation of the logarithm of a length: about two thirds are within a factor of 1.8. */
const LENGTH_SIGMA = 0.6;

/** The requests of a trace without their times, as many as wanted. More requests begin with the same ones. */
export function traceWork(count: number, { seed, promptTokens, newTokens, tightShare }: LengthOptions): TraceWork[] {
  const draws = new RandomDraws(seed);
  const length = (median: number) =>
    Math.max(1, Math.round(median * Math.min(4, Math.max(0.25, Math.exp(LENGTH_SIGMA * draws.normal())))));
  return Array.from({ length: count }, () => ({
    promptTokens: length(promptTokens),
    newTokens: length(newTokens),
    budgetClass: draws.uniform() <= tightShare ? "tight" : "loose",
  }));
}

export interface ArrivalOptions {
  readonly seed: number;
  readonly seconds: number;
  readonly shape: ShapeOfLoad;
  /** Squared coefficient of variation of the time between arrivals: 1 is Poisson, above it they come in bursts. */
  readonly cv2: number;
}

/**
 * Arrival times of so many requests in milliseconds, ascending, within the given time.
 *
 * Gaps are Gamma draws, scaled so that all of them together take the whole time: a short trace offers exactly the load
 * that was asked for. A shape then stretches the time where it offers less and shrinks it where it offers more.
 */
export function arrivalsMs(count: number, { seed, seconds, shape, cv2 }: ArrivalOptions): number[] {
  const draws = new RandomDraws(seed);
  const gaps = Array.from({ length: count + 1 }, () => draws.gamma(1 / cv2));
  const total = gaps.reduce((sum, gap) => sum + gap, 0);
  let passed = 0;
  return gaps.slice(0, count).map((gap) => 1000 * seconds * TIME_OF_SHARE[shape]((passed += gap) / total));
}

/** Relative load in the first, second and last third of a step. */
const STEP = [0.5, 2, 0.5] as const;

/** A sine goes up and down twice, by this share of its mean. */
const SINE = { periods: 2, amplitude: 0.8 } as const;

/** When, from 0 to 1, a share of all requests has arrived. */
const TIME_OF_SHARE: Readonly<Record<ShapeOfLoad, (share: number) => number>> = {
  gamma: (share) => share,
  step: (share) => inverse((time) => STEP.reduce((sum, load, i) => sum + load * clamp(time * 3 - i) / 3, 0), share),
  sine: (share) => {
    const angle = 2 * Math.PI * SINE.periods;
    return inverse((time) => time + SINE.amplitude * (1 - Math.cos(angle * time)) / angle, share);
  },
};

function clamp(value: number): number {
  return Math.min(1, Math.max(0, value));
}

/** Where a rising function from [0, 1] to [0, 1] takes a value, by bisection. */
function inverse(rising: (x: number) => number, value: number): number {
  let [low, high] = [0, 1];
  for (let i = 0; i < 50; i++) {
    const middle = (low + high) / 2;
    if (rising(middle) < value) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** A recorded trace at another load: the same gaps, all longer or shorter, cut off after the given time. */
export function scaledTrace(
  trace: readonly TraceRequest[],
  { requestsPerSecond, seconds }: { readonly requestsPerSecond: number; readonly seconds: number },
): TraceRequest[] {
  const first = trace[0]!.arrivalMs;
  const span = trace.at(-1)!.arrivalMs - first;
  const meanGap = trace.length > 1 ? span / (trace.length - 1) : 0;
  const factor = meanGap === 0 ? 0 : 1000 / requestsPerSecond / meanGap;
  return trace.map((request) => ({ ...request, arrivalMs: (request.arrivalMs - first) * factor }))
    .filter(({ arrivalMs }) => arrivalMs < 1000 * seconds);
}

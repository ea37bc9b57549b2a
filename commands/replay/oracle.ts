import { RandomDraws } from "./random.ts";
import { type Decisions, judge, REFUSED, type SimulatedRequest, type SimulatedResult } from "./simulator.ts";
import type { StepClock } from "./measured_costs.ts";

export interface OracleOptions {
  readonly clock: StepClock;
  readonly pruningRates: readonly number[];
  /** By arrival. */
  readonly requests: readonly SimulatedRequest[];
  /** Decisions to start from, beside every fixed rate: those that policies took. */
  readonly seeds: readonly Decisions[];
  /** Whether what runs can be narrowed. */
  readonly narrows: boolean;
  /** Candidates to try. */
  readonly candidates: number;
  readonly seed: number;
  /** @param share Of the candidates, 0 to 1. */
  readonly onProgress?: (share: number) => void;
}

/** The best decisions that were found. */
export interface Oracle extends SimulatedResult {
  readonly decisions: Decisions;
}

interface Candidate extends Oracle {
  /** Missed and refused requests, plus the mean rate: a request always weighs more than any change of rates. */
  readonly energy: number;
}

/** Temperatures, in requests: first a request may be lost on the way, at the end only the smallest change of rates. */
const [HOT, COLD] = [0.3, 1e-5];

/**
 * What a scheduler could reach that knew the whole trace and the cost of every step beforehand: the rate of every
 * request, or that it is refused, and to what those who run are narrowed at each arrival, such that most budgets are
 * met, and the mean rate is least among those.
 *
 * The exact optimum is out of reach, so this is the best of simulated annealing over such decisions in the simulator of
 * the engine, from the best of the seeds and of every fixed rate. It cannot hold a request back or stop one half way,
 * and takes the queue by deadline, as the engine does. What would miss is refused at once.
 *
 * @see Kirkpatrick, Gelatt and Vecchi, Optimization by Simulated Annealing, 1983
 */
export function findOracle(options: OracleOptions): Oracle {
  const { clock, pruningRates, requests, seeds, narrows, candidates, seed, onProgress } = options;
  if (requests.length === 0) throw new RangeError("Cannot schedule a trace without requests");
  const draws = new RandomDraws(seed);
  const last = pruningRates.length - 1;
  const none = narrows ? requests.map(() => 0) : undefined;

  /** Decisions with those refused that would miss: they only hold up others. */
  const tried = (given: Decisions): Candidate => {
    const levels = given.levels.slice();
    const narrowings = given.narrowings ?? none;
    const decisions: Decisions = { levels, ...(narrowings !== undefined && { narrowings }) };
    let result = judge(clock, pruningRates, requests, decisions);
    // Each round refuses one at least, so this ends; nearly always after the first.
    while (result.missed.length > 0) {
      for (const index of result.missed) levels[index] = REFUSED;
      result = judge(clock, pruningRates, requests, decisions);
    }
    return { ...result, decisions, energy: requests.length * (1 - result.attainment) + result.meanRate };
  };

  const starts = [...seeds, ...pruningRates.map((_, level) => ({ levels: requests.map(() => level) }))];
  let best = starts.map(tried).reduce((a, b) => b.energy < a.energy ? b : a);
  let current = best;
  for (let i = 0; i < candidates; i++) {
    const temperature = HOT * (COLD / HOT) ** (i / candidates);
    const candidate = tried(neighbour(current.decisions, { draws, last, slots: clock.slots }));
    if (draws.uniform() < Math.exp((current.energy - candidate.energy) / temperature)) current = candidate;
    if (current.energy < best.energy) best = current;
    if (i % 200 === 0) onProgress?.(i / candidates);
  }
  const { energy: _, ...oracle } = best;
  return oracle;
}

/** Decisions that differ a little, in one of five ways. */
function neighbour(
  { levels, narrowings }: Decisions,
  { draws, last, slots }: { draws: RandomDraws; last: number; slots: number },
): Decisions {
  if (narrowings !== undefined && draws.integer(5) === 0) {
    // Those who run are narrowed at another arrival, or not any more.
    const index = draws.integer(narrowings.length);
    return { levels, narrowings: narrowings.with(index, narrowings[index] === 0 ? 1 + draws.integer(last) : 0) };
  }
  const changed = levels.slice();
  const index = draws.integer(changed.length);
  const shift = (at: number, by: number) => {
    const level = changed[at];
    if (level !== undefined && level !== REFUSED) changed[at] = Math.min(last, Math.max(0, level + by));
  };
  switch (draws.integer(4)) {
    case 0: // any other decision for one request
      changed[index] = draws.integer(last + 2) - 1;
      break;
    case 1: // one request at a wider level
      shift(index, -1);
      break;
    case 2: { // one that was refused, and some of those around it narrower to make room
      const from = changed.indexOf(REFUSED, index);
      const at = from === -1 ? changed.indexOf(REFUSED) : from;
      if (at === -1) shift(index, -1);
      else {
        changed[at] = draws.integer(last + 1);
        for (let other = at - 2 * slots; other <= at + 2 * slots; other++) {
          if (other !== at && draws.uniform() < 0.5) shift(other, 1 + draws.integer(2));
        }
      }
      break;
    }
    default: { // neighbours in time, all narrower or all wider
      const by = draws.uniform() < 0.5 ? -1 : 1;
      const count = 1 + draws.integer(4 * slots);
      for (let other = index; other < index + count; other++) shift(other, by);
    }
  }
  return { levels: changed, ...(narrowings !== undefined && { narrowings }) };
}

import type { LoadSnapshot } from "../load.ts";
import type { Predictor, Situation } from "../predictor.ts";
import type { Policy, PolicyOptions, RateRequest } from "./policy.ts";

/**
 * Room for requests yet to come: where they come faster than rate 0 sustains, predicted times of levels wider than the
 * narrowest count `slope` times that excess more, at most `most` times as much. Those who wait are in the forecast
 * already; with room for them too, as many budgets were kept at as much pruning under load, and half as much again was
 * pruned at half of it. All numbers here were chosen with seeds 101 to 140 of traces such as `REPLAYED` in
 * `virtual_service.ts`, at 0.5, 1.2 and 1.35 times the load; `policies_test.ts` runs other seeds.
 */
const ROOM = { slope: 3, most: 2 } as const;

/**
 * Hysteresis: a level wider than what runs must leave this much more. Steps of two levels cost like the wider one, so
 * going back too soon slows down those for whom the others were narrowed.
 */
const RETURN = 1.1;

/**
 * How strict the door is: with this part of the surest prediction a request must keep its budget, from none while
 * those who come, over forty seconds, take no more than `from` times what the narrowest level sustains to all from
 * `to` times that on. A burst passes, for whoever was refused for it would have been served in time: with the pace of
 * ten seconds, from 1.1 to 1.4, 93.5 % of budgets were kept in `REPLAYED` at 1.35 times the load (seeds 201 to 216)
 * and not 93.7, and 97.1 % in `PREFILLING` at 1.2 (201 to 208) and not 97.5. It costs something where a floor leaves
 * too little for long: `predictive:0.05` kept 78.8 % in four traces of 150 s at 1.2 and not 77.4. When more comes
 * than can ever be served, the queue is filled up to what the door allows, so everyone is on the edge of it, and who
 * is let in must be sure: with the prediction that holds four times out of five 98.1 % of those let in were in time
 * at three times the load, and 48.4 % of all who came; with the one that holds nineteen times out of twenty 98.9 and
 * 49.3 % (60 traces that nothing was chosen by). Measured by what rate 0 sustains, whatever the narrowest level, the
 * door would stand open to a load that rate 0.05 can never serve, and lost budgets would take the slots of those that
 * can be kept.
 */
const DOOR = { from: 1, to: 1.3 } as const;

/**
 * With this part of the predicted times a budget is kept by good luck at least. Those who are that close are not given
 * up, and nobody is let in at their cost.
 */
const BARELY = 0.95;

/**
 * One level for all: the widest at which everyone, running and waiting, is predicted to keep as many budgets as at the
 * narrowest. One wide sequence makes every step read the wide weights, so levels that differ within a step cost like
 * wide ones. Those who run are narrowed to it, so running wide risks nothing: what is decided now can be made narrow at
 * the next step, up to the last moment at which narrowing still helps. While little comes, levels are chosen by what is
 * likely; the faster they come, the more room is left, for those who come next have budgets too. The level of a
 * sequence that starts is found in the same way. Nor is an answer that was in time made late by the prompts of others:
 * these are held back for it.
 *
 * At its arrival a request is refused if only the load stands in its way: if even with everyone at the narrowest level
 * it would miss its budget, or make another miss. That cannot be mended later, so here the surest prediction counts.
 *
 * @param narrowestLevel A floor under the quality of all answers: no request is made narrower, unless it is pinned. Pinned
 * ones go through the same door.
 */
export function predictive(
  { shed, pruningRates }: PolicyOptions,
  narrowestLevel = pruningRates.length - 1,
): Policy {
  const narrowest = all(narrowestLevel);

  /** A refusal, or a run at the level, the narrowest that the request may have; `others` would miss their budgets then. */
  const atNarrowest = (
    level: number,
    { load, hasBudget, stage, predictor }: {
      readonly load: LoadSnapshot;
      readonly hasBudget: boolean;
      readonly stage: RateRequest["stage"];
      readonly predictor: Predictor;
    },
  ): { readonly kind: "refuse" } | { readonly kind: "run"; fits: boolean; lost: boolean; others: number } => {
    const waits = load.requestsRunning + load.requestsWaiting >= load.slots;
    if (shed && stage === "arrival" && hasBudget && waits && predictor.keepsOnIdle(level)) {
      const harms = (margin: number) =>
        predictor.underLoad(level, narrowest, margin).othersMissed > predictor.missed(narrowest, margin);
      const { median, sure } = load.predictionError;
      const margin = doorMargin(predictor.utilizationAt(narrowestLevel, load.arrivals.sustainedPerSecond)) * sure /
        median;
      const { meets } = predictor.underLoad(level, narrowest, margin);
      if (!meets || harms(margin) || harms(BARELY * margin)) return { kind: "refuse" };
    }
    const { meets, othersMissed } = predictor.underLoad(level, narrowest);
    const lost = !meets && hasBudget && !predictor.underLoad(level, narrowest, BARELY).meets;
    return { kind: "run", fits: meets, lost, others: othersMissed };
  };

  const choose: Policy["choose"] = (load, { floorLevel: ownFloor, hasBudget, stage }, predictor) => {
    const floorLevel = Math.min(ownFloor, narrowestLevel);
    const floor = atNarrowest(floorLevel, { load, hasBudget, stage, predictor });
    if (floor.kind === "refuse") return floor;
    if (!floor.fits) return { kind: "run", level: floorLevel, reason: "floor", fits: false, lost: floor.lost };
    const margin = marginOf(predictor);
    const level = widest(floorLevel, (level) => {
      const returns = pruningRates[level]! < load.effectivePruningRate;
      const { meets, othersMissed } = predictor.underLoad(level, all(level), returns ? RETURN * margin : margin);
      return meets && othersMissed <= floor.others;
    });
    const reason = level === 0 ? "idle" : predictor.keepsOnIdle(0) ? "load" : "budget";
    return { kind: "run", level, reason, fits: true };
  };
  const choosePinned: Policy["choosePinned"] = (load, { pinnedLevel, hasBudget, stage }, predictor) => {
    const pinned = atNarrowest(pinnedLevel, { load, hasBudget, stage, predictor });
    if (pinned.kind === "refuse") return pinned;
    return { kind: "run", level: pinnedLevel, reason: "pinned", fits: pinned.fits, lost: pinned.lost };
  };
  const narrow: Policy["narrow"] = (_load, situation) => {
    const margin = marginOf(situation);
    if (situation.missed(all(0), margin) === 0) return 0;
    const least = situation.missed(narrowest);
    return widest(narrowestLevel, (level) => situation.missed(all(level), margin) <= least);
  };
  return { choose, choosePinned, narrow, holdsPrompts: true };
}

function all(level: number): { readonly waiting: number; readonly running: number } {
  return { waiting: level, running: level };
}

function marginOf(situation: Situation): number {
  return Math.min(ROOM.most, Math.max(1, 1 + ROOM.slope * (situation.utilizationAt(0) - 1)));
}

function doorMargin(utilization: number): number {
  return Math.min(1, Math.max(0, (utilization - DOOR.from) / (DOOR.to - DOOR.from)));
}

/** The widest level that will do; the narrower of two does if the wider does, and the narrowest is not asked about. */
function widest(narrowest: number, does: (level: number) => boolean): number {
  let [low, high] = [0, narrowest];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (does(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

import { type Phase, phaseOf, StepCosts, type StepPart, type StepTable, widestLevel } from "../step_costs.ts";
import { Draws } from "./draws.ts";

/**
 * Memory is as fast as a machine's neighbours leave it: for some time weights are read at full speed, then slower. In 22
 * replays of 35 s on the machine of the README the one or the other lasted for 5 s and for whole runs.
 */
const MEMORY = { fastSeconds: 40, slowSeconds: 40 } as const;

/**
 * How step times scatter around that, as measured over 2,500 steps: a part that stays for some steps, and now and then
 * one or a few that take much longer. Decode steps are short, and scatter more.
 */
const SCATTER = {
  decode: {
    deviation: 0.06,
    slow: { deviation: 0.08, memory: 0.95 },
    accidents: { begin: 0.1, goOn: 0.3, mean: 0.25 },
  },
  prefill: {
    deviation: 0.03,
    slow: { deviation: 0.03, memory: 0.95 },
    accidents: { begin: 0.06, goOn: 0.3, mean: 0.12 },
  },
} as const;

/** What steps cost on a machine, and what reading the weights takes at times, as a multiple of what it takes at best. */
export interface MachineCosts {
  readonly table: StepTable;
  readonly slowMemory: number;
}

/** What a step takes but for the scatter. Reading the weights takes what a row alone does, which does little else. */
function steadyMs(costs: StepCosts, parts: readonly StepPart[], slowness: number): number {
  const row = { level: widestLevel(parts), phase: "decode", rows: 1, context: 0 } as const;
  return Math.max(costs.stepMs(parts), costs.stepMs([row]) * slowness);
}

/** What a step takes in the mean over the times when memory is fast and slow. */
export function meanStepMs({ table, slowMemory }: MachineCosts): (parts: readonly StepPart[]) => number {
  const { fastSeconds, slowSeconds } = MEMORY;
  const costs = new StepCosts(table);
  return (parts) =>
    (fastSeconds * steadyMs(costs, parts, 1) + slowSeconds * steadyMs(costs, parts, slowMemory)) /
    (fastSeconds + slowSeconds);
}

/** A machine that is shared with others, whose steps cost more at some times than at others. */
export class SharedMachine {
  readonly #costs: StepCosts;
  readonly #slowMemory: number;
  readonly #draws: Draws;
  /** Of its own, so that when memory is slow depends on the clock alone and is the same for every policy. */
  readonly #memoryDraws: Draws;
  #slow = 0;
  #accident = 0;
  #memory = { slow: false, untilMs: 0 };

  constructor({ table, slowMemory }: MachineCosts, seed: number) {
    this.#costs = new StepCosts(table);
    this.#slowMemory = slowMemory;
    this.#draws = new Draws(seed);
    this.#memoryDraws = new Draws(seed + 1);
    // The generator's first numbers are much alike from seed to seed.
    for (let i = 0; i < 8; i++) this.#memoryDraws.uniform();
    this.#memory.slow = this.#memoryDraws.uniform() < MEMORY.slowSeconds / (MEMORY.slowSeconds + MEMORY.fastSeconds);
    this.#memory.untilMs = this.#dwellMs();
  }

  /** What the next step takes. @param nowMs Not before the step before. */
  stepMs(parts: readonly StepPart[], nowMs: number): number {
    for (const memory = this.#memory; nowMs >= memory.untilMs;) {
      memory.slow = !memory.slow;
      memory.untilMs += this.#dwellMs();
    }
    return steadyMs(this.#costs, parts, this.#memory.slow ? this.#slowMemory : 1) *
      this.#scatter(phaseOf(parts));
  }

  #dwellMs(): number {
    const { slowSeconds, fastSeconds } = MEMORY;
    return -1000 * (this.#memory.slow ? slowSeconds : fastSeconds) * Math.log(this.#memoryDraws.uniform());
  }

  #scatter(phase: Phase): number {
    const draws = this.#draws;
    const { deviation, slow, accidents } = SCATTER[phase];
    this.#slow = slow.memory * this.#slow + Math.sqrt(1 - slow.memory ** 2) * draws.normal();
    const happens = draws.uniform() < (this.#accident > 0 ? accidents.goOn : accidents.begin);
    this.#accident = happens ? -accidents.mean * Math.log(draws.uniform()) : 0;
    return Math.exp(deviation * draws.normal() + slow.deviation * this.#slow + this.#accident);
  }
}

import { budget } from "./budget.ts";
import { fixed } from "./fixed.ts";
import type { Policy, PolicyOptions } from "./policy.ts";
import { predictive } from "./predictive.ts";
import { queueThreshold } from "./queue_threshold.ts";
import { slackfit } from "./slackfit.ts";

export type { Decision, Policy, PolicyOptions, RateRequest } from "./policy.ts";

const POLICIES: Readonly<Record<string, (options: PolicyOptions) => Policy>> = {
  "queue-threshold": queueThreshold,
  budget,
  slackfit,
  predictive,
};

/** Those that are named with a rate behind a colon, which becomes a level. */
const POLICIES_OF_A_RATE: Readonly<Record<string, (options: PolicyOptions, level: number) => Policy>> = {
  fixed: (_options, level) => fixed(level),
  predictive,
};

/** What `createPolicy()` knows, for help texts. */
export const POLICY_NAMES: readonly string[] = [
  ...Object.keys(POLICIES_OF_A_RATE).map((name) => `${name}:R`),
  ...Object.keys(POLICIES),
];

/** Whether there is such a policy; whether the rate after the colon is prepared depends on the model. */
export function isPolicyName(name: string): boolean {
  if (Object.hasOwn(POLICIES, name)) return true;
  const [kind, rate] = partsOf(name);
  return Object.hasOwn(POLICIES_OF_A_RATE, kind) && rate !== null && /^\d*\.?\d+$/.test(rate);
}

/** @throws {RangeError} If there is no such policy, or the rate after the colon is not prepared. */
export function createPolicy(name: string, options: PolicyOptions): Policy {
  if (Object.hasOwn(POLICIES, name)) return POLICIES[name]!(options);
  const [kind, rate] = partsOf(name);
  if (rate === null || !Object.hasOwn(POLICIES_OF_A_RATE, kind)) {
    throw new RangeError(`There is no policy "${name}"; these are: ${POLICY_NAMES.join(", ")}`);
  }
  const level = rate.trim() === "" ? -1 : options.pruningRates.indexOf(Number(rate));
  if (level >= 0) return POLICIES_OF_A_RATE[kind]!(options, level);
  throw new RangeError(`Pruning rate "${rate}" is not prepared; these are: ${options.pruningRates.join(", ")}`);
}

/** What stands before the first colon and behind it; null without one. */
function partsOf(name: string): [kind: string, rate: string | null] {
  const colon = name.indexOf(":");
  return colon < 0 ? [name, null] : [name.slice(0, colon), name.slice(colon + 1)];
}

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

const FIXED = "fixed:";

/** What `createPolicy()` knows, for help texts. */
export const POLICY_NAMES: readonly string[] = [`${FIXED}R`, ...Object.keys(POLICIES)];

/** Whether there is such a policy; whether the rate after `fixed:` is prepared depends on the model. */
export function isPolicyName(name: string): boolean {
  return Object.hasOwn(POLICIES, name) || (name.startsWith(FIXED) && /^\d*\.?\d+$/.test(name.slice(FIXED.length)));
}

/** @throws {RangeError} If there is no such policy, or the rate after `fixed:` is not prepared. */
export function createPolicy(name: string, options: PolicyOptions): Policy {
  if (name.startsWith(FIXED)) {
    const rate = name.slice(FIXED.length);
    const level = rate.trim() === "" ? -1 : options.pruningRates.indexOf(Number(rate));
    if (level >= 0) return fixed(level);
    throw new RangeError(`Pruning rate "${rate}" is not prepared; these are: ${options.pruningRates.join(", ")}`);
  }
  if (Object.hasOwn(POLICIES, name)) return POLICIES[name]!(options);
  throw new RangeError(`There is no policy "${name}"; these are: ${POLICY_NAMES.join(", ")}`);
}

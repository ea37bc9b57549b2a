import type { Policy } from "./policy.ts";

/** The widest level at which the request alone, on an idle machine, would keep its budget. It ignores load. */
export function budget(): Policy {
  const choose: Policy["choose"] = (_load, { floorLevel }, predictor) => {
    for (let level = 0; level <= floorLevel; level++) {
      if (predictor.keepsAlone(level)) {
        return { kind: "run", level, reason: level === 0 ? "idle" : "budget", fits: true };
      }
    }
    return { kind: "run", level: floorLevel, reason: "floor", fits: false };
  };
  return { choose };
}

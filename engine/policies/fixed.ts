import type { Policy } from "./policy.ts";

/** Every request at one level, or as near to it as its floor lets it come. */
export function fixed(level: number): Policy {
  const choose: Policy["choose"] = (_load, { floorLevel }, predictor) => {
    const own = Math.min(level, floorLevel);
    const { meets } = predictor.underLoad(own, { waiting: level, running: 0 });
    return { kind: "run", level: own, reason: own < level ? "floor" : own === 0 ? "idle" : "pinned", fits: meets };
  };
  return { choose };
}

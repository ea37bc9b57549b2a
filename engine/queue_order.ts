import type { GenerationRequest } from "./generation.ts";
import type { Targets } from "./limits.ts";

/** No request is put behind others for longer than for its budget, or for this. */
export const PATIENCE_MS = 30_000;

/**
 * The instant that a request's place in the queue follows from, the earliest first: the first instant at which it can
 * break its budget, or the service's targets if it has none. A request that cannot be saved (`hopeless`) takes the
 * place of one that can wait for long. Instants are fixed, so whoever waits is overtaken only by those who arrived
 * before its own instant: nobody waits for ever.
 */
export function queueInstant(
  { budget, arrivedMs }: Pick<GenerationRequest, "budget" | "arrivedMs">,
  { targets, hopeless }: { targets: Targets; hopeless: boolean },
): number {
  if (hopeless) return arrivedMs + PATIENCE_MS;
  const own = [budget.latencyMs, budget.ttftMs].filter((ms) => ms !== null);
  return arrivedMs + Math.min(PATIENCE_MS, own.length === 0 ? targets.ttftMs ?? PATIENCE_MS : Math.min(...own));
}

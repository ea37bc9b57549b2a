/**
 * Why a request is refused at the door. `queue_full`: too many wait. `budget`: no rate is predicted to meet its budget,
 * and it asked to be refused then. `overload`: other requests stand in the way of its budget. `stopping`, `not_ready`:
 * the engine takes none.
 */
export type RefusalReason = typeof REFUSAL_REASONS[number];

export const REFUSAL_REASONS = ["queue_full", "budget", "overload", "stopping", "not_ready"] as const;

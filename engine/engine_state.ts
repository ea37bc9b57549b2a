/** What an engine does; all but `ready` keep it from taking requests. */
export type EngineState = "ready" | keyof typeof NOT_READY;

/** Why an engine takes no requests, in words for those who ask. */
export const NOT_READY = {
  draining: "The service is stopping",
  reopening: "Steps failed, and the model is being opened again",
  broken: "Steps failed, and the model could not be opened again yet",
  stalled: "Work waits, and no step has ended for a long time",
} as const;

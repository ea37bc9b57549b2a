/** Time that open connections, and lines of the log, get after the last answer. */
const CLOSE_MS = 1000;

/** What is to end, in this order. */
export interface Drained {
  readonly engine: {
    /** Takes no more requests; settles when those it has are done. */
    stop(): Promise<void>;
    /** Ends those it has. */
    abort(): Promise<void>;
  };
  /** Takes no more connections; settles when its answers are sent. */
  readonly server: { close(): Promise<void> };
  /** Settles when its lines are written. */
  readonly writer: { flush(): Promise<void> };
}

export interface DrainOptions {
  /** Time that the requests have; those that have not ended then are ended. */
  readonly drainMs: number;
  /** Takes a line for people. */
  readonly say: (line: string) => void;
}

/**
 * Lets a service end: its requests first, who get answers while connections are still taken and told that it stops, then
 * the connections, then the log, which has the last request's line. It settles even if one of them does not.
 */
export async function drain({ engine, server, writer }: Drained, { drainMs, say }: DrainOptions): Promise<void> {
  const inTime = await within(drainMs, engine.stop());
  if (!inTime) await within(CLOSE_MS, engine.abort());
  await within(CLOSE_MS, server.close());
  await within(CLOSE_MS, writer.flush());
  say(inTime ? "Stopped: all requests had ended" : "Stopped: the time was up, and requests that ran were ended");
}

/** Whether a promise settles in time. */
async function within(ms: number, promise: Promise<unknown>): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<boolean>((resolve) => timer = setTimeout(() => resolve(false), ms));
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

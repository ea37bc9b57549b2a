import { signalIsIgnored } from "../../kernels/ignored_signal.ts";

/**
 * A terminal signals every process of its group, and `deno task` passes on what it gets: what comes so soon after the
 * first signal is that one again.
 */
const SAME_SIGNAL_MS = 100;

/** What asks a service to stop: a key, a supervisor, a terminal that is closed. */
const STOP_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
export type StopSignal = typeof STOP_SIGNALS[number];

export interface StopOptions {
  /** Called on the first signal; the process ends with 0 after it. */
  readonly stop: (signal: StopSignal) => Promise<void>;
  readonly exit: (code: number) => void;
  /** A clock in milliseconds. */
  readonly now: () => number;
  /** Takes a line for people. */
  readonly say: (line: string) => void;
}

/**
 * Makes what takes the signals: it stops on the first and exits with 0 after that, or with 1 if it cannot stop; another
 * one exits at once, with 1.
 */
export function stopOnce({ stop, exit, now, say }: StopOptions): (signal: StopSignal) => Promise<void> {
  let firstMs: number | null = null;
  return async (signal) => {
    if (firstMs !== null) {
      if (now() - firstMs < SAME_SIGNAL_MS) return;
      say(`Stopped at once, on ${signal}`);
      return exit(1);
    }
    firstMs = now();
    try {
      await stop(signal);
    } catch (error) {
      say(`Cannot stop in order: ${error}`);
      return exit(1);
    }
    exit(0);
  };
}

/**
 * Keeps SIGHUP without effect where it had none when the process started, as `nohup` wants it. To be called before anything
 * else is done: one listener to any signal, of a library too, makes the runtime (Deno 2.9.6) catch every signal, and end
 * the process on those that nobody listens to.
 *
 * @returns Whether it had none.
 */
export function keepHangUpIgnored(): boolean {
  const ignored = signalIsIgnored("SIGHUP");
  if (ignored) Deno.addSignalListener("SIGHUP", () => {});
  return ignored;
}

/** What a shell shows of a process that such a signal ended. */
const EXIT_CODES: Readonly<Record<StopSignal, number>> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/**
 * Ends the process on a signal, until it is disposed of: while a service starts, nothing is lost by that. Without it, the
 * runtime (Deno 2.9.6) ends as process 1, in a container, with a segmentation fault.
 *
 * @param ignored Whether SIGHUP is none of them.
 */
export function exitOnSignals(ignored: boolean): Disposable {
  const listeners = STOP_SIGNALS.filter((signal) => signal !== "SIGHUP" || !ignored)
    .map((signal) => ({ signal, exit: () => Deno.exit(EXIT_CODES[signal]) }));
  for (const { signal, exit } of listeners) Deno.addSignalListener(signal, exit);
  return {
    [Symbol.dispose]() {
      for (const { signal, exit } of listeners) Deno.removeSignalListener(signal, exit);
    },
  };
}

/** Stops on signals from now on. @param ignored Whether SIGHUP is none of them. */
export function stopOnSignals(ignored: boolean, options: StopOptions): void {
  const onSignal = stopOnce(options);
  for (const signal of STOP_SIGNALS) {
    if (signal !== "SIGHUP" || !ignored) Deno.addSignalListener(signal, () => onSignal(signal));
  }
}

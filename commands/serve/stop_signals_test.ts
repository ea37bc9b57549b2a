import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { stopOnce, type StopSignal } from "./stop_signals.ts";

/** A service whose stop ends when it is let go, and what became of it. */
function stoppable() {
  const clock = { ms: 5000 };
  const stopping = Promise.withResolvers<void>();
  const stopped: StopSignal[] = [];
  const exits: number[] = [];
  const said: string[] = [];
  const onSignal = stopOnce({
    stop: (signal) => (stopped.push(signal), stopping.promise),
    exit: (code) => void exits.push(code),
    now: () => clock.ms,
    say: (line) => void said.push(line),
  });
  return { clock, stopping, stopped, exits, said, onSignal };
}

describe("stopOnce()", () => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    it(`exits with 0 on ${signal}, when all is stopped and not before`, async () => {
      const { stopping, stopped, exits, onSignal } = stoppable();
      const done = onSignal(signal);
      deepEqual([stopped, exits], [[signal], []]);
      stopping.resolve();
      await done;
      deepEqual([stopped, exits], [[signal], [0]]);
    });
  }

  it("takes what comes within 100 ms for the first signal again, and exits with 1 on a later one", async () => {
    const { clock, stopped, exits, said, onSignal } = stoppable();
    void onSignal("SIGINT");
    clock.ms += 99;
    await onSignal("SIGTERM");
    deepEqual([exits, said], [[], []]);
    clock.ms += 1;
    await onSignal("SIGHUP");
    deepEqual([stopped, exits, said], [["SIGINT"], [1], ["Stopped at once, on SIGHUP"]]);
  });

  it("exits with 1 if it cannot stop, and says why", async () => {
    const { stopping, exits, said, onSignal } = stoppable();
    stopping.reject(new Error("stuck"));
    await onSignal("SIGTERM");
    deepEqual([exits, said], [[1], ["Cannot stop in order: Error: stuck"]]);
  });
});

describe("stopOnSignals()", () => {
  const module = JSON.stringify(import.meta.resolve("./stop_signals.ts"));
  const program = `import { keepHangUpIgnored, stopOnSignals } from ${module};
    const ignored = keepHangUpIgnored();
    const stop = (signal) => Promise.resolve(console.log(signal));
    stopOnSignals(ignored, { stop, exit: Deno.exit, now: () => performance.now(), say: () => {} });
    for (const signal of ["SIGHUP", "SIGTERM"]) {
      Deno.kill(Deno.pid, signal);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }`;
  for (
    const [what, shell, stoppedBy] of [["stops", "", "SIGHUP"], [
      "under nohup does not stop",
      'trap "" HUP; ',
      "SIGTERM",
    ]]
  ) {
    it(`${what} on SIGHUP`, async () => {
      const { code, stdout } = await new Deno.Command("sh", {
        args: ["-c", `${shell}exec "$@"`, "sh", Deno.execPath(), "eval", program],
      }).output();
      deepEqual([code, new TextDecoder().decode(stdout)], [0, `${stoppedBy}\n`]);
    });
  }
});

describe("exitOnSignals()", () => {
  const module = JSON.stringify(import.meta.resolve("./stop_signals.ts"));
  const ends = async (then: string) => {
    const program = `import { exitOnSignals } from ${module};
      const exits = exitOnSignals(false);
      ${then}
      Deno.kill(Deno.pid, "SIGTERM");
      await new Promise((resolve) => setTimeout(resolve, 5000));`;
    return await new Deno.Command(Deno.execPath(), { args: ["eval", program] }).output();
  };

  it("ends the process with what a shell would show", async () => equal((await ends("")).code, 143));

  it("leaves signals alone once it is disposed of", async () => {
    const { code } = await ends(
      `exits[Symbol.dispose](); Deno.addSignalListener("SIGTERM", () => Deno.exit(7));`,
    );
    equal(code, 7);
  });
});

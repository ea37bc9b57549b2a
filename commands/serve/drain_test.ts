import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { drain } from "./drain.ts";

/** What is to end, and in which order it was asked to; what `stuck` names never does. */
function drained(...stuck: string[]) {
  const asked: string[] = [];
  const said: string[] = [];
  const end = (name: string) => () => {
    asked.push(name);
    return stuck.includes(name) ? new Promise<void>(() => {}) : Promise.resolve();
  };
  const parts = {
    engine: { stop: end("stop"), abort: end("abort") },
    server: { close: end("close") },
    writer: { flush: end("flush") },
  };
  return { parts, asked, said, say: (line: string) => void said.push(line) };
}

/** Runs something while whoever waits for a time has waited for it already. */
async function atOnce(run: () => Promise<void>): Promise<number[]> {
  const waited: number[] = [];
  const { setTimeout } = globalThis;
  globalThis.setTimeout = ((then: () => void, ms = 0) => {
    waited.push(ms);
    return setTimeout(then, 0);
  }) as typeof setTimeout;
  try {
    await run();
  } finally {
    globalThis.setTimeout = setTimeout;
  }
  return waited;
}

describe("drain()", () => {
  it("lets requests end before connections, and the log last", async () => {
    const { parts, asked, said, say } = drained();
    await drain(parts, { drainMs: 10_000, say });
    deepEqual(asked, ["stop", "close", "flush"]);
    deepEqual(said, ["Stopped: all requests had ended"]);
  });

  it("ends requests that take longer than they have", async () => {
    const { parts, asked, said, say } = drained("stop");
    deepEqual((await atOnce(() => drain(parts, { drainMs: 7000, say })))[0], 7000);
    deepEqual(asked, ["stop", "abort", "close", "flush"]);
    deepEqual(said, ["Stopped: the time was up, and requests that ran were ended"]);
  });

  it("waits a second and no longer for each part that does not end", async () => {
    const { parts, asked, say } = drained("stop", "abort", "close", "flush");
    deepEqual(await atOnce(() => drain(parts, { drainMs: 0, say })), [0, 1000, 1000, 1000]);
    deepEqual(asked, ["stop", "abort", "close", "flush"]);
  });
});

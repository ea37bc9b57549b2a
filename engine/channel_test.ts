import { deepEqual, equal, rejects } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { Channel } from "./channel.ts";

describe("Channel", () => {
  it("gives values in order, before or after they are asked for, then ends", async () => {
    const channel = new Channel<number>(() => {});
    channel.push(1);
    const values = Array.fromAsync(channel);
    await Promise.resolve();
    channel.push(2);
    channel.push(3);
    channel.close();
    channel.push(4);
    deepEqual(await values, [1, 2, 3]);
  });

  it("fails after the values pushed before", async () => {
    const channel = new Channel<number>(() => {});
    channel.push(1);
    channel.fail(new Error("late"));
    equal((await channel.next()).value, 1);
    await rejects(channel.next(), /late/);
  });

  it("says when the reader leaves early, and only then", async () => {
    let left = 0;
    const channel = new Channel<number>(() => left++);
    channel.push(1);
    for await (const _ of channel) break;
    equal(left, 1);
    const ended = new Channel<number>(() => left++);
    ended.close();
    await ended.return();
    equal(left, 1);
  });
});

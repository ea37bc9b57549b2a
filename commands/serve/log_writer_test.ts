import { deepEqual, equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { LogWriter } from "./log_writer.ts";

/** A writer whose writes end when they are let go. */
function heldWriter() {
  const written: string[] = [];
  const writes: PromiseWithResolvers<void>[] = [];
  const writer = new LogWriter({
    write: (bytes) => {
      written.push(new TextDecoder().decode(bytes));
      writes.push(Promise.withResolvers());
      return writes.at(-1)!.promise;
    },
    lost: (count) => `${count} lost`,
  });
  return { writer, written, writes };
}

describe("LogWriter", () => {
  it("writes all lines in their order, and waits for nobody", async () => {
    const { writer, written, writes } = heldWriter();
    writer.log("a");
    writer.log("b");
    await Promise.resolve();
    deepEqual(written, ["a\nb\n"]);
    writer.log("c");
    writes[0]!.resolve();
    while (writes.length < 2) await Promise.resolve();
    deepEqual(written, ["a\nb\n", "c\n"]);
    writes[1]!.resolve();
    await writer.flush();
    writer.log("d");
    await Promise.resolve();
    equal(written.at(-1), "d\n");
  });

  it("drops what nobody reads, and says how much and where", async () => {
    const { writer, written, writes } = heldWriter();
    writer.log("first");
    await Promise.resolve();
    for (let i = 0; i < 1500; i++) writer.log(`${i}`);
    writes[0]!.resolve();
    while (writes.length < 2) await Promise.resolve();
    writer.log("later");
    writes[1]!.resolve();
    while (writes.length < 3) await Promise.resolve();
    deepEqual(written[1], `${Array.from({ length: 1000 }, (_, i) => i).join("\n")}\n500 lost\n`);
    deepEqual(written[2], "later\n");
  });

  it("goes on when it cannot write", async () => {
    const { writer, written, writes } = heldWriter();
    writer.log("a");
    await Promise.resolve();
    writes[0]!.reject(new Error("broken pipe"));
    await writer.flush();
    writer.log("b");
    await Promise.resolve();
    equal(written.at(-1), "b\n");
  });
});

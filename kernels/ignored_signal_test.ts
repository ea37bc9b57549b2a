import { equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";
import { signalIsIgnored } from "./ignored_signal.ts";

describe("signalIsIgnored()", () => {
  const module = JSON.stringify(import.meta.resolve("./ignored_signal.ts"));
  const program = `import { signalIsIgnored } from ${module}; console.log(signalIsIgnored("SIGHUP"))`;
  for (const [shell, ignored] of [['exec "$@"', false], ['trap "" HUP; exec "$@"', true]] as const) {
    it(`is ${ignored} after ${shell}`, async () => {
      const { stdout } = await new Deno.Command("sh", {
        args: ["-c", shell, "sh", Deno.execPath(), "eval", program],
      }).output();
      equal(new TextDecoder().decode(stdout), `${ignored}\n`);
    });
  }

  it("is false where somebody listens", () => {
    const listener = () => {};
    Deno.addSignalListener("SIGHUP", listener);
    equal(signalIsIgnored("SIGHUP"), false);
    Deno.removeSignalListener("SIGHUP", listener);
  });
});

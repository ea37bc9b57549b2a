import { deepEqual } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";

describe("say()", () => {
  const module = JSON.stringify(import.meta.resolve("./say.ts"));
  const program = `import { say } from ${module}; say("a"); say("b"); console.log("goes on")`;
  for (const [what, stderr] of [["a full disk", "/dev/full"], ["nowhere", "&-"]] as const) {
    it(`says nothing to ${what}, and the process goes on`, async () => {
      const { code, stdout } = await new Deno.Command("sh", {
        args: ["-c", `exec "$@" 2>${stderr}`, "sh", Deno.execPath(), "eval", program],
      }).output();
      deepEqual([code, new TextDecoder().decode(stdout)], [0, "goes on\n"]);
    });
  }
});

import { describe, it } from "@std/testing/bdd";
import { equal, match } from "node:assert/strict";

describe("runCommand()", () => {
  for (const code of ["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EBUSY", "EXDEV", "ENOTEMPTY", "EIO"]) {
    it(`tells ${code} in a line, without a stack`, async () => {
      equal(await told(`throw Object.assign(new Error("no luck"), { code: "${code}" });`), "no luck\n");
    });
  }

  it("tells of a file that would be too long, of which the runtime knows a number alone", async () => {
    // As it is where a file may have no more than 64 KiB.
    const said = 'throw new Error("File too large (os error 27)");';
    equal(await told(said), "File too large (os error 27)\n");
  });

  it("tells a full disk in a line", async () => {
    match(await told('await Deno.writeTextFile("/dev/full", "x");'), /^No space left on device[^\n]*\n$/);
  });

  it("keeps the stack of what the surroundings are not at fault for", async () => {
    match(await told('throw Object.assign(new Error("ours"), { code: "EFAULT" });'), /^Error: ours\n {4}at /);
  });
});

/** What a command of these statements says on stderr before it ends with 1. */
async function told(statements: string): Promise<string> {
  const runCommand = JSON.stringify(import.meta.resolve("./run_command.ts"));
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", `import { runCommand } from ${runCommand}; await runCommand(async () => { ${statements} });`],
    env: { NO_COLOR: "1" },
  }).output();
  equal(code, 1);
  return new TextDecoder().decode(stderr);
}

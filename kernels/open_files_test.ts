import { equal } from "node:assert/strict";
import { describe, it } from "@std/testing/bdd";

describe("openFilesLimit()", () => {
  it("is what the process was started with", async () => {
    const module = JSON.stringify(import.meta.resolve("./open_files.ts"));
    const program = `import { openFilesLimit } from ${module}; console.log(openFilesLimit())`;
    const { stdout } = await new Deno.Command("sh", {
      args: ["-c", 'ulimit -n 123; exec "$@"', "sh", Deno.execPath(), "eval", program],
    }).output();
    equal(new TextDecoder().decode(stdout), "123\n");
  });
});

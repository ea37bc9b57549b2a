import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { type Architecture, buildKernels, COMPILERS, findCompiler } from "./build.ts";
import { linksSanitizers, SANITIZER_SETTINGS, SANITIZERS } from "./sanitizers.ts";

/** What Debian calls its compiler for arm64 and the emulator of single programs. */
const ARM64 = { compiler: "aarch64-linux-gnu-g++", emulator: "qemu-aarch64" };

/** Emulated processors, and the instruction sets of ours that each has. */
const PROCESSORS = { "max": "i8mm dotprod portable", "neoverse-n1": "dotprod portable", "cortex-a72": "portable" };

const compiler = await findCompiler();
const sanitized = compiler !== null && await linksSanitizers(compiler);
const missing: string[] = [];
for (const tool of Object.values(ARM64)) if (!await succeeds(tool, ["--version"])) missing.push(tool);

describe("Native code against plain loops", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await Deno.makeTempDir();
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  async function build(compiler: string, architecture: Architecture, flags: readonly string[] = []): Promise<string> {
    const out = `${folder}/parity`;
    await buildKernels({ compiler, architecture, out, program: "parity/main", flags: ["-pthread", ...flags] });
    return out;
  }

  if (compiler === null) {
    it.skip(`there is no compiler (${COMPILERS.join(", ")})`, () => {});
  } else {
    it("holds for every block size, cut and row count, on every instruction set of this processor", async () => {
      const program = await build(compiler, Deno.build.arch);
      await Promise.all([run([program]), run([program, "--decoder-steps", "1000"])]);
    });
  }

  if (compiler === null || !sanitized) {
    it.skip("no compiler links sanitizers", () => {});
  } else {
    it("holds under the sanitizers of addresses and undefined behaviour", async () => {
      const program = await build(compiler, Deno.build.arch, SANITIZERS);
      // Each runs on one core.
      await Promise.all([
        run([program, "--steps", "30", "--decoder-steps", "300", "--seed", "7"], SANITIZER_SETTINGS),
        run([program, "--steps", "30", "--seed", "8"], SANITIZER_SETTINGS),
      ]);
    });
  }

  if (missing.length > 0) {
    it.skip(`no ${missing.join(", no ")} for arm64`, () => {});
  } else {
    it("holds on arm64 with and without dot products and matrix instructions", async () => {
      const program = await build(ARM64.compiler, "aarch64", ["-static"]);
      await Promise.all(
        Object.entries(PROCESSORS).map(async ([processor, sets]) => {
          const emulated = [ARM64.emulator, "-cpu", processor, program];
          const output = await run([...emulated, "--steps", "15", "--decoder-steps", "30"]);
          ok(output.startsWith(`instruction sets: ${sets}\n`), output);
        }),
      );
    });
  }
});

/** What a program prints. Fails with it, if the program does. */
async function run([program, ...args]: string[], env: Readonly<Record<string, string>> = {}): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program!, { args, env }).output();
  const output = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  ok(success && / 0 failed\n$/.test(output), output);
  return output;
}

async function succeeds(program: string, args: readonly string[]): Promise<boolean> {
  try {
    return (await new Deno.Command(program, { args: [...args], stdout: "null", stderr: "null" }).output()).success;
  } catch {
    return false; // there is no such program
  }
}

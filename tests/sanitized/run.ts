/**
 * Ten thousand steps of the operators under the sanitizers of addresses, leaks and undefined behaviour, minutes:
 * `deno run --allow-all tests/sanitized/run.ts`. First the decoder of the parity program
 * (`kernels/native/parity/decoder.h`), whose arrays are guarded at both ends; then the library inside ONNX Runtime, by
 * `serving_steps.ts`. Needs GCC. Ends with 1 if anything is found.
 */

import { z } from "zod";
import { parseFlags } from "../../commands/flags.ts";
import { runCommand } from "../../commands/run_command.ts";
import { buildKernels, findCompiler } from "../../kernels/build.ts";
import { linksSanitizers, SANITIZER_SETTINGS, SANITIZERS } from "../../kernels/sanitizers.ts";

const Flags = z.strictObject({
  steps: z.int().min(1).default(10_000).describe("Steps of each part, over all processes"),
  seed: z.int().min(0).default(1).describe("Of the first process; the next have the next ones"),
  processes: z.int().min(1).max(64).default(navigator.hardwareConcurrency).describe("Processes at once"),
});

await runCommand(async () => {
  const { steps, seed, processes } = parseFlags(Flags, Deno.args, {
    name: "deno run -A tests/sanitized/run.ts",
    summary: "Runs steps of the operators under sanitizers, alone and inside ONNX Runtime.",
  });
  const compiler = await findCompiler();
  if (compiler === null || !await linksSanitizers(compiler)) throw new RangeError("No compiler links sanitizers");
  const preload = await sanitizerLibrary(compiler);
  const folder = await Deno.makeTempDir();
  try {
    const shares = Array.from({ length: processes }, (_, i) => ({
      steps: String(Math.floor(steps * (i + 1) / processes) - Math.floor(steps * i / processes)),
      seed: String(seed + i),
    }));
    const [program, library] = [`${folder}/parity`, `${folder}/operators.so`];
    const common = { compiler, architecture: Deno.build.arch };
    await buildKernels({ ...common, out: program, program: "parity/main", flags: ["-pthread", ...SANITIZERS] });
    await Promise.all(
      shares.map(({ steps, seed }) => checkParity(program, ["--decoder-steps", steps, "--seed", seed])),
    );
    await buildKernels({ ...common, out: library, flags: SANITIZERS });
    await Promise.all(shares.map(({ steps, seed }) => checkServing(library, preload, [steps, seed])));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** The runtime that has to be loaded before anything else. @throws {RangeError} If the compiler has none to be loaded so. */
async function sanitizerLibrary(compiler: string): Promise<string> {
  const { stdout } = await new Deno.Command(compiler, { args: ["-print-file-name=libasan.so"] }).output();
  const path = new TextDecoder().decode(stdout).trim();
  if (!path.startsWith("/")) throw new RangeError(`${compiler} has no libasan.so: GCC is needed`);
  return path;
}

async function checkParity(program: string, args: string[]): Promise<void> {
  const { success, output } = await run(program, args, SANITIZER_SETTINGS);
  if (!success || !/ 0 failed\n$/.test(output)) throw new Error(`The parity program failed:\n${output}`);
  console.log(output);
}

/** Deno and ONNX Runtime leave memory behind when they end; what came by way of the library is a fault of ours. */
async function checkServing(library: string, preload: string, args: string[]): Promise<void> {
  const script = new URL("serving_steps.ts", import.meta.url).pathname;
  const { success, output } = await run(Deno.execPath(), ["run", "--allow-all", script, ...args], {
    ESPALIER_KERNELS: library,
    // The library as well: unloaded before the end, it could not be named.
    LD_PRELOAD: `${preload}:${library}`,
    // ONNX Runtime has no frame pointers: the quick way to unwind would end there.
    ASAN_OPTIONS: `${SANITIZER_SETTINGS["ASAN_OPTIONS"]}:fast_unwind_on_malloc=0`,
    LSAN_OPTIONS: "exitcode=0",
  });
  if (!success) throw new Error(`Steps inside ONNX Runtime failed:\n${output}`);
  const [printed, ...leaks] = output.split(/^(?=(?:Direct|Indirect) leak of )/m);
  if (leaks.length === 0) throw new Error(`No leaks were looked for, since Deno always has some:\n${output}`);
  const ours = leaks.filter((leak) => leak.includes(library));
  if (ours.length > 0) throw new Error(`The operators leak:\n${ours.join("")}`);
  console.log(`${printed!.split("\n")[0]}; ${leaks.length} leaks, none by the operators`);
}

async function run(command: string, args: string[], env: Readonly<Record<string, string>>) {
  const { success, stdout, stderr } = await new Deno.Command(command, { args, env }).output();
  const decoder = new TextDecoder();
  return { success, output: decoder.decode(stdout) + decoder.decode(stderr) };
}

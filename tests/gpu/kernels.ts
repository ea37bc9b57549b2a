/**
 * The kernels' own checks on a CUDA device: `deno run --allow-all tests/gpu/kernels.ts [--sanitize]`. What
 * `kernels/cuda_parity_test.ts` runs thread by thread on the CPU. With `--sanitize` under compute-sanitizer, once.
 */

import { findCompiler } from "../../kernels/build.ts";
import { buildCudaKernels, findNvcc, gpuArchitectures, knownTo } from "../../kernels/cuda_build.ts";

const SEEDS = [1, 2, 3] as const;

const [compiler, nvcc] = [await findCompiler(), await findNvcc()];
if (compiler === null || nvcc === null) throw new Error("Cannot build the checks: a C++ compiler and nvcc are needed");
const folder = await Deno.makeTempDir();
try {
  const program = `${folder}/parity`;
  await buildCudaKernels({
    compiler,
    nvcc,
    architecture: Deno.build.arch,
    gpuArchitectures: await knownTo(nvcc, gpuArchitectures()),
    out: program,
    program: ["cuda/parity/main", "cuda/parity/real_device"],
    onUnit: (done, total) => console.log(`built ${done} of ${total}`),
  });
  if (Deno.args.includes("--sanitize")) {
    // Of the images a kernel is looked for in, most do not have it: that the driver says so is no error.
    const options = ["--report-api-errors", "no", "--error-exitcode", "3"];
    await run("compute-sanitizer", [...options, program, "--rounds", "1"]);
  } else {
    for (const seed of SEEDS) await run(program, ["--rounds", "4", "--seed", `${seed}`]);
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}

async function run(command: string, args: string[]): Promise<void> {
  const { code } = await new Deno.Command(command, { args, stdout: "inherit", stderr: "inherit" }).output();
  if (code !== 0) throw new Error(`${command} ended with ${code}`);
}

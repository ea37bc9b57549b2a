/** `deno task build`: compiles the operators in `kernels/native/`. */

import { z } from "zod";
import { GPU_ARCHITECTURES } from "../kernels/cuda_build.ts";
import { describeKernels, openCudaKernels, openKernels } from "../kernels/native_library.ts";
import { parseFlags } from "./flags.ts";
import { progressBar } from "./progress_bar.ts";
import { runCommand } from "./run_command.ts";

await runCommand(async () => {
  parseFlags(z.strictObject({}), Deno.args, {
    name: "deno task build",
    summary:
      `Compiles the operators in kernels/native/ with the C++ compiler that it finds, unless that was done for these sources.
Where nvcc is (ESPALIER_NVCC, the path, /usr/local/cuda/bin), those for CUDA devices too.
ESPALIER_CUDA_ARCHITECTURES are the GPUs to compile for (default ${GPU_ARCHITECTURES}).`,
  });
  {
    using bar = progressBar("build");
    const state = await openKernels((done, total) => bar.update(done / total, `${done} of ${total} units`));
    if (state.kernels === null) throw state.failure ?? new Error(`Cannot build kernels: ${state.reason}`);
    console.log(`${state.kernels.path}: ${describeKernels(state.kernels)}`);
  }
  using bar = progressBar("build for CUDA");
  const { kernels, reason } = await openCudaKernels((done, total) =>
    bar.update(done / total, `${done} of ${total} units`)
  );
  if (kernels === null) {
    console.log(`No operators for CUDA devices: ${reason}`);
    return;
  }
  console.log(`${kernels.path} (CUDA)`);
  if (kernels.skipped.length > 0) console.error(`Left out, since this nvcc does not know them: ${kernels.skipped}`);
});

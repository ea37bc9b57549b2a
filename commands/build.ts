/** `deno task build`: compiles the operators in `kernels/native/`. */

import { z } from "zod";
import { openKernels } from "../kernels/native_library.ts";
import { parseFlags } from "./flags.ts";
import { progressBar } from "./progress_bar.ts";
import { runCommand } from "./run_command.ts";

await runCommand(async () => {
  parseFlags(z.strictObject({}), Deno.args, {
    name: "deno task build",
    summary:
      "Compiles the operators in kernels/native/ with the C++ compiler that it finds, unless that was done for these sources.",
  });
  using bar = progressBar("build");
  const { kernels, reason } = await openKernels((done, total) => bar.update(done / total, `${done} of ${total} units`));
  if (kernels === null) throw new Error(`Cannot build kernels: ${reason}`);
  console.log(`${kernels.path} (${kernels.instructionSet})`);
});

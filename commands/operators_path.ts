import { openKernels } from "../kernels/native_library.ts";

/** The library of our own operators, or null after saying on stderr why stock ones serve. */
export async function operatorsPath(): Promise<string | null> {
  const { kernels, reason } = await openKernels();
  if (kernels !== null) return kernels.path;
  console.error(`Stock operators: ${reason}`);
  return null;
}

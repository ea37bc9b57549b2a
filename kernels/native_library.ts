import { fileURLToPath } from "node:url";
import { type Architecture, buildKernels, COMPILERS, findCompiler, sourceDigest } from "./build.ts";

/** Our operators, compiled for this machine. */
export interface NativeKernels {
  readonly path: string;
  /** Name of the instruction set that they use here. */
  readonly instructionSet: string;
}

export type KernelsState =
  | { readonly kernels: NativeKernels; readonly reason: null }
  | { readonly kernels: null; /** Why stock operators serve. */ readonly reason: string };

/** `build/` of the project: kept between starts, not in git. */
const FOLDER = fileURLToPath(new URL("../build/kernels/", import.meta.url));

/**
 * The library for the present sources, made if it is not there yet: seconds, once.
 *
 * `ESPALIER_KERNELS` is a path to a library made elsewhere, or `off`.
 *
 * @param onUnit Told while it compiles.
 * @throws {Error} If the compiler fails, or the library that was named cannot be used. Where none can be made, stock
 * operators serve and the reason says why.
 */
export async function openKernels(onUnit?: (done: number, total: number) => void): Promise<KernelsState> {
  const setting = Deno.env.get("ESPALIER_KERNELS");
  if (setting === "off") return { kernels: null, reason: "switched off (ESPALIER_KERNELS=off)" };
  if (setting) return { kernels: load(setting), reason: null };
  const { os, arch } = Deno.build;
  if (os !== "linux") return { kernels: null, reason: `kernels are made for Linux, not ${os}` };
  const path = await libraryPath(arch);
  if (await exists(path)) return { kernels: load(path), reason: null };
  const compiler = await findCompiler();
  if (compiler === null) {
    return { kernels: null, reason: `no compiler (${COMPILERS.join(", ")}) and none built before` };
  }
  await Deno.mkdir(FOLDER, { recursive: true });
  await buildKernels({ compiler, architecture: arch, out: path, ...(onUnit && { onUnit }) });
  return { kernels: load(path), reason: null };
}

/**
 * The library of our operators for CUDA devices, made elsewhere: `ESPALIER_CUDA_KERNELS` is its path, or `off`.
 *
 * @throws {Error} If the library that was named is not there.
 */
export async function openCudaKernels(
  _onUnit?: (done: number, total: number) => void,
): Promise<{ kernels: { path: string }; reason: null } | { kernels: null; reason: string }> {
  const setting = Deno.env.get("ESPALIER_CUDA_KERNELS");
  if (setting === "off") return { kernels: null, reason: "switched off (ESPALIER_CUDA_KERNELS=off)" };
  if (!setting) return { kernels: null, reason: "none named (ESPALIER_CUDA_KERNELS)" };
  if (!await exists(setting)) throw new Error(`Cannot use ${setting}: there is no such file`);
  return { kernels: { path: setting }, reason: null };
}

/** Where the library for the present sources is or will be. */
export async function libraryPath(architecture: Architecture): Promise<string> {
  return `${FOLDER}espalier-${architecture}-${await sourceDigest(architecture)}.so`;
}

/** @throws {TypeError} If it is no library of ours, or this processor lacks the instruction set that is asked for. */
function load(path: string): NativeKernels {
  // Never closed: sessions use it for as long as they live.
  const library = Deno.dlopen(path, { EspalierInstructionSet: { parameters: [], result: "pointer" } });
  const name = library.symbols.EspalierInstructionSet();
  if (name === null) {
    throw new TypeError(
      `Cannot use ${path}: this processor has no instruction set "${Deno.env.get("ESPALIER_INSTRUCTION_SET")}"`,
    );
  }
  return { path, instructionSet: Deno.UnsafePointerView.getCString(name) };
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

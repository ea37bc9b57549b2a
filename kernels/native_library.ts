import { fileURLToPath } from "node:url";
import { type Architecture, buildKernels, COMPILERS, findCompiler, sourceDigest } from "./build.ts";
import { buildCudaKernels, cudaSourceDigest, findNvcc, gpuArchitectures, knownTo } from "./cuda_build.ts";

/** Our operators, compiled for this machine. */
export interface NativeKernels {
  readonly path: string;
  /** Name of the instruction set that they use here. */
  readonly instructionSet: string;
  /** Those that the library was compiled without, since the compiler was too old for them; null if it has all. */
  readonly leftOut: string | null;
}

export type KernelsState =
  | { readonly kernels: NativeKernels; readonly reason: null }
  | { readonly kernels: null; /** Why stock operators serve. */ readonly reason: string };

/** Our operators for CUDA devices. Whether there is such a device is another question. */
export interface CudaKernels {
  readonly path: string;
  /** Architectures that were asked for and that nvcc, which compiled just now, does not know. */
  readonly skipped: readonly string[];
}

export type CudaKernelsState =
  | { readonly kernels: CudaKernels; readonly reason: null }
  | { readonly kernels: null; /** Why there are none. */ readonly reason: string };

/** `build/` of the project: kept between starts, not in git. */
const FOLDER = fileURLToPath(new URL("../build/kernels/", import.meta.url));

/**
 * The library for the present sources, made if it is not there yet: seconds, once.
 *
 * `ESPALIER_KERNELS` is a path to a library made elsewhere, or `off`. An instruction set that the compiler does not know is
 * left out; a newer compiler is not noticed, `build/kernels` is to be removed then.
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
 * The library of operators for CUDA devices, made if it is not there yet: a minute or two, once. Needs no GPU.
 *
 * `ESPALIER_CUDA_KERNELS` is a path to a library made elsewhere, or `off`; `ESPALIER_NVCC` is the path of nvcc;
 * `ESPALIER_CUDA_ARCHITECTURES` are the GPUs to compile for, such as `sm_87,sm_110`. An architecture that nvcc does
 * not know is left out; a newer nvcc is not noticed, `build/kernels` is to be removed then.
 *
 * @param onUnit Told while it compiles.
 * @throws {Error} If a compiler fails, or the library that was named is none of ours.
 */
export async function openCudaKernels(onUnit?: (done: number, total: number) => void): Promise<CudaKernelsState> {
  const setting = Deno.env.get("ESPALIER_CUDA_KERNELS");
  if (setting === "off") return { kernels: null, reason: "switched off (ESPALIER_CUDA_KERNELS=off)" };
  if (setting) return { kernels: loadCuda(setting, []), reason: null };
  const { os, arch } = Deno.build;
  if (os !== "linux") return { kernels: null, reason: `kernels are made for Linux, not ${os}` };
  const asked = gpuArchitectures();
  const path = await cudaLibraryPath(arch, asked);
  if (await exists(path)) return { kernels: loadCuda(path, []), reason: null };
  const nvcc = await findNvcc();
  if (nvcc === null) {
    return {
      kernels: null,
      reason: "none built (deno task build), and no nvcc to be run (ESPALIER_NVCC, the path, /usr/local/cuda/bin)",
    };
  }
  const compiler = await findCompiler();
  if (compiler === null) {
    return { kernels: null, reason: `no compiler (${COMPILERS.join(", ")}) and none built before` };
  }
  const known = await knownTo(nvcc, asked);
  if (known.length === 0) return { kernels: null, reason: `${nvcc} compiles for none of ${asked.join(", ")}` };
  await Deno.mkdir(FOLDER, { recursive: true });
  await buildCudaKernels({
    ...{ compiler, nvcc, architecture: arch, gpuArchitectures: known, out: path },
    ...(onUnit && { onUnit }),
  });
  return { kernels: loadCuda(path, asked.filter((name) => !known.includes(name))), reason: null };
}

/** One line for people: the instruction set, and the one that the compiler was too old for. */
export function describeKernels({ instructionSet, leftOut }: Omit<NativeKernels, "path">): string {
  return instructionSet + (leftOut === null ? "" : ` (compiled without ${leftOut}, unknown to the compiler)`);
}

/** Where the library for the present sources is or will be. */
export async function libraryPath(architecture: Architecture): Promise<string> {
  return `${FOLDER}espalier-${architecture}-${await sourceDigest(architecture)}.so`;
}

/** The same of the library for CUDA devices. */
export async function cudaLibraryPath(
  architecture: Architecture,
  gpuArchitectures: readonly string[],
): Promise<string> {
  return `${FOLDER}espalier-cuda-${architecture}-${await cudaSourceDigest(architecture, gpuArchitectures)}.so`;
}

/** @throws {TypeError} If it is no library of ours. */
function loadCuda(path: string, skipped: readonly string[]): CudaKernels {
  // Only looked at: CUDA is not touched before a session or a check asks for it. Never closed, as below.
  Deno.dlopen(path, { EspalierCudaProblem: { parameters: [], result: "pointer" } });
  return { path, skipped };
}

/** @throws {TypeError} If it is no library of ours, or this processor lacks the instruction set that is asked for. */
function load(path: string): NativeKernels {
  // Never closed: sessions use it for as long as they live.
  const library = Deno.dlopen(path, {
    EspalierInstructionSet: { parameters: [], result: "pointer" },
    EspalierLeftOut: { parameters: [], result: "pointer" },
  });
  const name = library.symbols.EspalierInstructionSet();
  if (name === null) {
    throw new TypeError(
      `Cannot use ${path}: this processor has no instruction set "${Deno.env.get("ESPALIER_INSTRUCTION_SET")}"`,
    );
  }
  const leftOut = library.symbols.EspalierLeftOut();
  return {
    path,
    instructionSet: Deno.UnsafePointerView.getCString(name),
    leftOut: leftOut === null ? null : Deno.UnsafePointerView.getCString(leftOut),
  };
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

import { fileURLToPath } from "node:url";
import { type Architecture, buildKernels, findCompiler, missingCompiler, OBJECTS, sourceDigest } from "./build.ts";
import { buildCudaKernels, cudaSourceDigest, findNvcc, gpuArchitectures, knownTo } from "./cuda_build.ts";
import { checkSeal } from "./seal.ts";

/** Our operators, compiled for this machine. */
export interface NativeKernels {
  readonly path: string;
  /** Name of the instruction set that they use here. */
  readonly instructionSet: string;
  /** Those that the library was compiled without, since the compiler was too old for them; null if it has all. */
  readonly leftOut: string | null;
}

export type KernelsState =
  | { readonly kernels: NativeKernels; readonly reason: null; readonly failure?: undefined }
  | {
    readonly kernels: null;
    /** Why stock operators serve. */
    readonly reason: string;
    /** With the compiler's own words, where there is one and it fails. */
    readonly failure?: Error;
  };

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

/** Objects that lie there longer belong to no build that still runs. */
const INTERRUPTED_MS = 3_600_000;

/**
 * The library for the present sources, made if it is not there yet: seconds, once. Where none can be made, stock operators
 * serve and the reason says why.
 *
 * `ESPALIER_KERNELS` is a path to a library made elsewhere, or `off`; `ESPALIER_INSTRUCTION_SET` is what it is to compute
 * with. An instruction set that the compiler does not know is left out; a newer compiler is not noticed, `build/kernels`
 * is to be removed then.
 *
 * @param onUnit Told while it compiles.
 * @throws {RangeError} If the library that is named is none of ours or not whole, or has no such instruction set for this processor.
 */
export async function openKernels(onUnit?: (done: number, total: number) => void): Promise<KernelsState> {
  const setting = Deno.env.get("ESPALIER_KERNELS");
  if (setting === "off") return { kernels: null, reason: "switched off (ESPALIER_KERNELS=off)" };
  if (setting) return { kernels: describe(setting, await openNamed("ESPALIER_KERNELS", setting, open)), reason: null };
  const { os, arch } = Deno.build;
  if (os !== "linux") return { kernels: null, reason: `kernels are made for Linux, not ${os}` };
  const path = await libraryPath(arch);
  const earlier = await openEarlier(path, open);
  if (earlier.library !== null) return { kernels: describe(path, earlier.library), reason: null };
  const compiler = await findCompiler();
  if (compiler === null) return { kernels: null, reason: `${await missingCompiler()} and ${earlier.problem}` };
  let library: Library;
  try {
    await Deno.mkdir(FOLDER, { recursive: true });
    await buildKernels({ compiler, architecture: arch, out: path, ...(onUnit && { onUnit }) });
    library = open(path);
  } catch (error) {
    const failure = error as Error;
    return { kernels: null, reason: `cannot be built in build/kernels: ${inOneLine(failure)}`, failure };
  }
  return { kernels: describe(path, library), reason: null };
}

/**
 * The library of operators for CUDA devices, made if it is not there yet: a minute or two, once. Needs no GPU.
 *
 * `ESPALIER_CUDA_KERNELS` is a path to a library made elsewhere, or `off`; `ESPALIER_NVCC` is the path of nvcc;
 * `ESPALIER_CUDA_ARCHITECTURES` are the GPUs to compile for, such as `sm_87,sm_110`. An architecture that nvcc does
 * not know is left out; a newer nvcc is not noticed, `build/kernels` is to be removed then.
 *
 * @param onUnit Told while it compiles.
 * @throws {RangeError} If the library that is named is none of ours, or not whole.
 * @throws {Error} If a compiler fails, with its own words.
 */
export async function openCudaKernels(onUnit?: (done: number, total: number) => void): Promise<CudaKernelsState> {
  const setting = Deno.env.get("ESPALIER_CUDA_KERNELS");
  if (setting === "off") return { kernels: null, reason: "switched off (ESPALIER_CUDA_KERNELS=off)" };
  if (setting) {
    await openNamed("ESPALIER_CUDA_KERNELS", setting, openCuda);
    return { kernels: { path: setting, skipped: [] }, reason: null };
  }
  const { os, arch } = Deno.build;
  if (os !== "linux") return { kernels: null, reason: `kernels are made for Linux, not ${os}` };
  const asked = gpuArchitectures();
  const path = await cudaLibraryPath(arch, asked);
  const earlier = await openEarlier(path, openCuda);
  if (earlier.library !== null) return { kernels: { path, skipped: [] }, reason: null };
  const nvcc = await findNvcc();
  if (nvcc === null) {
    return {
      kernels: null,
      reason: `${earlier.problem} (deno task build), and no nvcc to be run (ESPALIER_NVCC, the path, ` +
        "/usr/local/cuda/bin)",
    };
  }
  const compiler = await findCompiler();
  if (compiler === null) return { kernels: null, reason: `${await missingCompiler()} and ${earlier.problem}` };
  const known = await knownTo(nvcc, asked);
  if (known.length === 0) return { kernels: null, reason: `${nvcc} compiles for none of ${asked.join(", ")}` };
  await Deno.mkdir(FOLDER, { recursive: true });
  await buildCudaKernels({
    ...{ compiler, nvcc, architecture: arch, gpuArchitectures: known, out: path },
    ...(onUnit && { onUnit }),
  });
  openCuda(path);
  return { kernels: { path, skipped: asked.filter((name) => !known.includes(name)) }, reason: null };
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

type Library = ReturnType<typeof open>;

/** Never closed: sessions use it for as long as they live. Throws if it is no library of ours. */
function open(path: string) {
  return Deno.dlopen(path, {
    EspalierInstructionSet: { parameters: [], result: "pointer" },
    EspalierInstructionSetAt: { parameters: ["usize"], result: "pointer" },
    EspalierLeftOut: { parameters: [], result: "pointer" },
  }).symbols;
}

/** The same of a library for CUDA devices. Only looked at: CUDA is not touched before a session or a check asks for it. */
function openCuda(path: string): unknown {
  return Deno.dlopen(path, { EspalierCudaProblem: { parameters: [], result: "pointer" } });
}

/** @throws {RangeError} If it is no library of ours, or no longer whole. */
async function openNamed<Opened>(variable: string, path: string, open: (path: string) => Opened): Promise<Opened> {
  try {
    await checkSeal(path);
    return open(path);
  } catch (cause) {
    throw new RangeError(
      `${variable} must be the path of a library of our operators, or off, not "${path}": ${problemOf(cause)}`,
      { cause },
    );
  }
}

/**
 * What an earlier build left. A file that cannot be opened counts as none, and the next build replaces it: it may be
 * damaged, or made where the system's libraries are newer. What an interrupted build left is removed.
 */
async function openEarlier<Opened>(
  path: string,
  open: (path: string) => Opened,
): Promise<{ readonly library: Opened | null; readonly problem: string }> {
  await removeInterrupted();
  if (!await Deno.stat(path).then(() => true, () => false)) return { library: null, problem: "none built before" };
  try {
    await checkSeal(path);
    return { library: open(path), problem: "" };
  } catch (error) {
    return { library: null, problem: `the one built before cannot be used: ${problemOf(error)}` };
  }
}

/** @throws {RangeError} If this processor lacks the instruction set that is asked for, or the library does. */
function describe(path: string, library: Library): NativeKernels {
  const [name, leftOut] = [textAt(library.EspalierInstructionSet()), textAt(library.EspalierLeftOut())];
  if (name !== null) return { path, instructionSet: name, leftOut };
  const sets: string[] = [];
  for (let set = textAt(library.EspalierInstructionSetAt(0n)); set !== null;) {
    sets.push(set);
    set = textAt(library.EspalierInstructionSetAt(BigInt(sets.length)));
  }
  throw new RangeError(
    `ESPALIER_INSTRUCTION_SET must be one of ${sets.join(", ")} on this processor, not ` +
      `"${Deno.env.get("ESPALIER_INSTRUCTION_SET")}"` +
      (leftOut === null ? "" : ` (the library was compiled without ${leftOut}, unknown to the compiler)`),
  );
}

function textAt(pointer: Deno.PointerValue): string | null {
  return pointer === null ? null : Deno.UnsafePointerView.getCString(pointer);
}

/** What Deno says of a library, without what it says twice. */
function problemOf(error: unknown): string {
  return (error as Error).message.replace(/^(Could not open library: )+/, "").trim();
}

/** A failure in one line: of what a compiler says, the first error. */
function inOneLine(failure: Error): string {
  const [what, ...lines] = failure.message.trim().split("\n");
  const error = lines.find((line) => /\berror\b|\bundefined\b/.test(line)) ?? lines[0];
  return error === undefined ? what! : `${what} ${error.trim()}`;
}

/** Removes the objects of builds that were interrupted, if it may. */
async function removeInterrupted(): Promise<void> {
  const { state } = await Deno.permissions.query({ name: "write", path: FOLDER });
  if (state !== "granted") return;
  const latest = Date.now() - INTERRUPTED_MS;
  try {
    for await (const { name } of Deno.readDir(FOLDER)) {
      if (!name.startsWith(OBJECTS)) continue;
      const { mtime } = await Deno.stat(FOLDER + name);
      if (mtime!.getTime() < latest) await Deno.remove(FOLDER + name, { recursive: true });
    }
  } catch {
    // Nothing was built yet, or another process is removing them too.
  }
}

/**
 * Compiles `kernels/native/cuda/` into one library: its kernels by nvcc, for every GPU architecture that is asked for,
 * and the operators around them by the C++ compiler, which embeds the kernels. The library links nothing of CUDA.
 */

import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { answers, type Architecture, compile, eachAtOnce, filesOf, FLAGS, OBJECTS, putInPlace } from "./build.ts";
import { seal } from "./seal.ts";

/**
 * GPUs that are compiled for unless `ESPALIER_CUDA_ARCHITECTURES` says otherwise: Orin, Hopper (whose tensor cores of
 * warpgroups are instructions of sm_90a, not of sm_90), Thor.
 */
export const GPU_ARCHITECTURES: readonly string[] = ["sm_87", "sm_90a", "sm_110"];

const DEVICE_FLAGS: readonly string[] = ["-std=c++17", "-O3"];

/** What the operators need of the host's units. */
const SHARED_UNITS: readonly string[] = ["operator", "layer_attributes", "memory"];

/** Embeds the kernels, which must be there by then. */
const EMBEDDING_UNIT = "cuda/module";

/** The library's symbols. A test program brings its own `main` instead. */
const LIBRARY_UNIT = "cuda/register";

const NVCC_FOLDER = "/usr/local/cuda/bin";

const SOURCES = fileURLToPath(new URL("native/", import.meta.url));

export interface CudaBuildOptions {
  /** For the host. */
  readonly compiler: string;
  readonly nvcc: string;
  /** Of the host. */
  readonly architecture: Architecture;
  /** Such as "sm_90"; nvcc must know them all. */
  readonly gpuArchitectures: readonly string[];
  /** Where the library or program comes to lie. */
  readonly out: string;
  /** Units below `native/`, one with a `main`: makes a program of them instead of the library. */
  readonly program?: readonly string[];
  /** The sources' folder, with a slash, with `cuda/` in it. */
  readonly sources?: string;
  /** Told after every unit. */
  readonly onUnit?: (done: number, total: number) => void;
}

/**
 * Compiles, as many units at once as there are cores, and links.
 *
 * @throws {Error} With the words of the compiler that failed.
 */
export async function buildCudaKernels(options: CudaBuildOptions): Promise<void> {
  const { compiler, nvcc, gpuArchitectures, out, program, sources = SOURCES, onUnit } = options;
  const folder = await Deno.makeTempDir({ dir: dirname(out), prefix: OBJECTS });
  try {
    // One behind the other: `module.h`.
    const fatBinaries = `${folder}/kernels.fatbin`;
    const targets = gpuArchitectures.map((gpu) => `-gencode=arch=${gpu.replace("sm_", "compute_")},code=${gpu}`);
    const deviceUnits = (await filesOf(`${sources}cuda/`, /\.cu$/)).map((file) => ({
      object: `${folder}/${file}.fatbin`,
      command: [nvcc, ...DEVICE_FLAGS, ...targets, `--threads=${targets.length}`, "-fatbin", `${sources}cuda/${file}`],
    }));
    const hostUnits = [
      ...SHARED_UNITS,
      ...(await filesOf(`${sources}cuda/`, /\.cpp$/)).map((file) => `cuda/${file.slice(0, -".cpp".length)}`),
      ...program ?? [],
    ].filter((unit) => program === undefined || unit !== LIBRARY_UNIT).map((unit, index) => ({
      unit,
      object: `${folder}/${index}.o`,
      command: [compiler, ...FLAGS, `-DESPALIER_FATBIN="${fatBinaries}"`, "-c", `${sources}${unit}.cpp`],
    }));
    const embeds = ({ unit }: { unit: string }) => unit === EMBEDDING_UNIT;
    const build = async ({ object, command }: { object: string; command: readonly string[] }) => {
      await compile(command[0]!, [...command.slice(1), "-o", object]);
    };
    const total = deviceUnits.length + hostUnits.length;
    const apart = [...hostUnits.filter((unit) => !embeds(unit)), ...deviceUnits];
    await eachAtOnce(apart, build, (done) => onUnit?.(done, total));
    for (const { object } of deviceUnits) {
      await Deno.writeFile(fatBinaries, await Deno.readFile(object), { append: true });
    }
    await eachAtOnce(hostUnits.filter(embeds), build, (done) => onUnit?.(apart.length + done, total));
    const linked = `${folder}/linked`;
    await compile(compiler, [
      ...program === undefined ? ["-shared", "-Wl,-z,defs"] : ["-pthread"],
      ...["-o", linked, ...hostUnits.map(({ object }) => object), "-ldl"],
    ]);
    if (program === undefined) await seal(linked);
    await putInPlace(linked, out);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * The architectures to compile for, such as "sm_90": `ESPALIER_CUDA_ARCHITECTURES`, separated by commas, or all.
 *
 * @throws {SyntaxError} If one is no name of an architecture.
 */
export function gpuArchitectures(): readonly string[] {
  const setting = Deno.env.get("ESPALIER_CUDA_ARCHITECTURES");
  if (!setting) return GPU_ARCHITECTURES;
  const names = setting.split(",").map((name) => name.trim());
  for (const name of names) {
    if (/^sm_\d+[af]?$/.test(name)) continue;
    throw new SyntaxError(`ESPALIER_CUDA_ARCHITECTURES must be such as "sm_87,sm_110", not "${setting}"`);
  }
  return [...new Set(names)];
}

/**
 * nvcc: `ESPALIER_NVCC` if set, else the one on the path, else that of `/usr/local/cuda`. Null if none answers, or none
 * may be run. Never prompts for permission: a service is not to compile for minutes.
 */
export async function findNvcc(): Promise<string | null> {
  const setting = Deno.env.get("ESPALIER_NVCC");
  for (const nvcc of setting ? [setting] : ["nvcc", `${NVCC_FOLDER}/nvcc`]) {
    const { state } = await Deno.permissions.query({ name: "run", command: nvcc });
    if (state === "granted" && await answers(nvcc).catch(() => false)) return nvcc;
  }
  return null;
}

/** Which of the architectures this nvcc compiles for. One that is too old, or too new, lacks some. */
export async function knownTo(nvcc: string, architectures: readonly string[]): Promise<readonly string[]> {
  const { stdout } = await new Deno.Command(nvcc, { args: ["--list-gpu-code"], stderr: "null" }).output();
  const known = new Set(new TextDecoder().decode(stdout).split(/\s+/));
  // The list names no variants, such as sm_90a of sm_90.
  return architectures.filter((name) => known.has(name) || known.has(name.replace(/[af]$/, "")));
}

/**
 * Changes whenever a source file, a flag or an architecture does.
 *
 * @param sources The sources' folder, with a slash, with `cuda/` in it. Test programs in folders below do not count.
 */
export async function cudaSourceDigest(
  architecture: Architecture,
  gpuArchitectures: readonly string[],
  sources: string = SOURCES,
): Promise<string> {
  const hash = createHash("sha256")
    .update(JSON.stringify([architecture, gpuArchitectures, FLAGS, DEVICE_FLAGS, SHARED_UNITS]));
  const files = [
    ...SHARED_UNITS.map((unit) => `${unit}.cpp`),
    ...await filesOf(sources, /\.h$/),
    ...(await filesOf(`${sources}cuda/`, /\.(cpp|h|cu|cuh)$/)).map((file) => `cuda/${file}`),
  ];
  for (const file of files) hash.update(file).update(await Deno.readFile(sources + file));
  return hash.digest("hex").slice(0, 16);
}

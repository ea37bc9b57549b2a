/**
 * Compiles `kernels/native/` into one library. Instruction sets that not every processor has are compiled file by file
 * and chosen when the library is loaded.
 */

import { createHash } from "node:crypto";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { seal } from "./seal.ts";

export type Architecture = "x86_64" | "aarch64";

const AVX512: readonly string[] = [
  ...["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx2", "-mfma", "-mf16c"],
  "-mprefer-vector-width=512",
];

/**
 * Translation units of one processor, with the instructions that the compiler may use in them. Every other file of
 * `native/` is a unit of all processors.
 */
const INSTRUCTIONS: Readonly<Record<Architecture, Readonly<Record<string, readonly string[]>>>> = {
  x86_64: {
    routines_avx2: ["-mavx2", "-mfma", "-mf16c"],
    routines_avxvnni: ["-mavxvnni", "-mavx2", "-mfma", "-mf16c"],
    routines_avx512: AVX512,
    routines_amx: ["-mamx-tile", "-mamx-int8", ...AVX512],
  },
  aarch64: {
    routines_dotprod: ["-march=armv8.2-a+dotprod"],
    routines_i8mm: ["-march=armv8.2-a+dotprod+i8mm"],
  },
};

/**
 * Units whose instructions not every compiler in use knows, and the macro that leaves one out of the table of routines:
 * GCC knows these from 11 on, clang from 12 on.
 */
const NEWER_UNITS: Readonly<Record<string, string>> = {
  routines_avxvnni: "WITHOUT_AVXVNNI",
  routines_amx: "WITHOUT_AMX",
};

/** Of every unit of the host. */
export const FLAGS: readonly string[] = [
  "-std=c++17",
  "-O3",
  // A product and a sum that one instruction set contracts and another does not would round differently.
  "-ffp-contract=off",
  "-fPIC",
  "-fvisibility=hidden",
  "-fno-exceptions",
  "-fno-rtti",
  "-Wall",
  "-Wextra",
  "-Wno-maybe-uninitialized", // GCC 12 says so of its own intrinsics
];

/** How the name of a folder with the objects of one build begins. */
export const OBJECTS = "objects-";

/** Compilers that are tried, in this order. */
export const COMPILERS: readonly string[] = ["c++", "g++", "clang++"];

const SOURCES = fileURLToPath(new URL("native/", import.meta.url));

export interface BuildOptions {
  readonly compiler: string;
  readonly architecture: Architecture;
  /** Where the library or program comes to lie. */
  readonly out: string;
  /** Further flags for compiling and linking: sanitizers, a static link. */
  readonly flags?: readonly string[];
  /** A unit with a `main`, below `native/`: makes a program of it, with all others, instead of the library. */
  readonly program?: string;
  /** The sources' folder, with a slash. */
  readonly sources?: string;
  /** Told after every unit. */
  readonly onUnit?: (done: number, total: number) => void;
}

/**
 * Compiles, as many units at once as there are cores, and links. An instruction set that the compiler is too old for is
 * left out; the library says so.
 *
 * @throws {Error} With the compiler's own words, if it fails.
 */
export async function buildKernels(options: BuildOptions): Promise<void> {
  const { compiler, architecture, out, flags = [], program, sources = SOURCES, onUnit } = options;
  const folder = await Deno.makeTempDir({ dir: dirname(out), prefix: OBJECTS });
  try {
    const leftOut = await unknownUnits(compiler, architecture);
    const without = leftOut.map((unit) => `-D${NEWER_UNITS[unit]}`);
    const files = (await filesOf(sources, /\.cpp$/)).map((file) => file.slice(0, -".cpp".length));
    const instructions = INSTRUCTIONS[architecture];
    // Of an inline function that several units have, the linker takes the first: that must run on every processor.
    const units = [
      ...program === undefined ? [] : [program],
      ...files.filter((unit) => !Object.values(INSTRUCTIONS).some((special) => unit in special)),
      ...files.filter((unit) => unit in instructions && !leftOut.includes(unit)),
    ];
    const objects = units.map((_, index) => `${folder}/${index}.o`);
    await eachAtOnce(units, async (unit, index) => {
      const unitFlags = instructions[unit] ?? without;
      await compile(compiler, [...FLAGS, ...unitFlags, ...flags, "-c", `${sources}${unit}.cpp`, "-o", objects[index]!]);
    }, onUnit);
    const linked = `${folder}/linked`;
    const library = program === undefined ? ["-shared", "-Wl,-z,defs"] : [];
    await compile(compiler, [...library, ...flags, "-o", linked, ...objects]);
    if (program === undefined) await seal(linked);
    await putInPlace(linked, out);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Those of the newer units whose flags this compiler refuses. */
async function unknownUnits(compiler: string, architecture: Architecture): Promise<readonly string[]> {
  const unknown: string[] = [];
  for (const [unit, instructions] of Object.entries(INSTRUCTIONS[architecture])) {
    if (!(unit in NEWER_UNITS)) continue;
    const takes = compile(compiler, [...instructions, "-fsyntax-only", "-x", "c++", "/dev/null"]);
    if (!await takes.then(() => true, () => false)) unknown.push(unit);
  }
  return unknown;
}

/** The first compiler that answers, or null. */
export async function findCompiler(): Promise<string | null> {
  for (const compiler of await allowedCompilers()) {
    const found = await answers(compiler).catch(() => false);
    if (found) return compiler;
  }
  return null;
}

/** Why `findCompiler()` finds none, with what it tried. */
export async function missingCompiler(): Promise<string> {
  const allowed = await allowedCompilers();
  const tried = allowed.length === 0 ? "none that may be run" : allowed.join(", ");
  const others = allowed.length < COMPILERS.length ? `; deno task build tries ${COMPILERS.join(", ")}` : "";
  return `no compiler (${tried}${others})`;
}

/** Those that may be run. Never prompts for permission: at a terminal a start would wait for the answer. */
async function allowedCompilers(): Promise<readonly string[]> {
  const allowed: string[] = [];
  for (const command of COMPILERS) {
    const { state } = await Deno.permissions.query({ name: "run", command });
    if (state === "granted") allowed.push(command);
  }
  return allowed;
}

/**
 * Changes whenever a source file, a flag or the architecture does.
 *
 * @param sources The folder of the sources, with a slash. Test programs in folders below it do not count.
 */
export async function sourceDigest(architecture: Architecture, sources: string = SOURCES): Promise<string> {
  const hash = createHash("sha256").update(JSON.stringify([architecture, FLAGS, INSTRUCTIONS, NEWER_UNITS]));
  for (const file of await filesOf(sources, /\.(cpp|h)$/)) {
    hash.update(file).update(await Deno.readFile(sources + file));
  }
  return hash.digest("hex").slice(0, 16);
}

/** Names of the files in a folder that match, sorted. */
export async function filesOf(folder: string, pattern: RegExp): Promise<string[]> {
  const names: string[] = [];
  for await (const { name, isFile } of Deno.readDir(folder)) if (isFile && pattern.test(name)) names.push(name);
  return names.sort();
}

/** Runs as many at once as there are cores. After the first that fails none begins; rejects when those begun have ended. */
export async function eachAtOnce<Item>(
  items: readonly Item[],
  run: (item: Item, index: number) => Promise<void>,
  onDone?: (done: number, total: number) => void,
): Promise<void> {
  let [next, done] = [0, 0];
  const worker = async () => {
    for (let index = next++; index < items.length; index = next++) {
      try {
        await run(items[index]!, index);
      } catch (error) {
        next = items.length;
        throw error;
      }
      onDone?.(++done, items.length);
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: navigator.hardwareConcurrency }, worker));
  for (const end of ends) if (end.status === "rejected") throw end.reason;
}

/** Rejects if there is no such program, or it may not be run. */
export async function answers(compiler: string): Promise<boolean> {
  const { success } = await new Deno.Command(compiler, { args: ["--version"], stdout: "null", stderr: "null" })
    .output();
  return success;
}

/** @throws {Error} With the compiler's own words, if it fails. */
export async function compile(compiler: string, args: readonly string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(compiler, { args: [...args], stdout: "null", stderr: "piped" })
    .output();
  if (!success) throw new Error(`${compiler} failed:\n${new TextDecoder().decode(stderr)}`);
}

/**
 * Moves a file to its place, whole. A process may have an older one loaded: that must not be written over, only replaced.
 * And where power fails soon after, a name without its bytes would be what every later start loads.
 */
export async function putInPlace(file: string, place: string): Promise<void> {
  using opened = await Deno.open(file);
  await opened.syncData();
  await Deno.rename(file, place);
}

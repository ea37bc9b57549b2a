/** llama.cpp, built here from the source that npm's `node-llama-cpp` carries, on a random Q4_0 model. */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { median } from "../../commands/statistics.ts";
import { exists } from "./exists.ts";
import { KNOWN_SHAPES, type ShapeName } from "../../models/known_shapes.ts";
import { writeRandomGguf } from "./random_gguf.ts";
import { type Participant, run, type Workload } from "./workload.ts";

/** Carries llama.cpp as a git bundle. */
const PACKAGE = "node-llama-cpp@3.22.1";

/** With OpenMP, the default: without it eight sequences decode a tenth slower here, and the rest alike. */
const BUILD_FLAGS = [
  "CMAKE_BUILD_TYPE=Release",
  "GGML_NATIVE=ON",
  "BUILD_SHARED_LIBS=OFF",
  "LLAMA_BUILD_SERVER=OFF",
  "LLAMA_BUILD_APP=OFF",
  "LLAMA_BUILD_TESTS=OFF",
  "LLAMA_BUILD_EXAMPLES=OFF",
  "LLAMA_USE_PREBUILT_UI=OFF",
  "LLAMA_OPENSSL=OFF",
  `CMAKE_CXX_FLAGS=-include ${fileURLToPath(new URL("tile_configuration.h", import.meta.url))}`,
];

const PROGRAMS = ["llama-bench", "llama-batched-bench"] as const;

function program(folder: string, name: typeof PROGRAMS[number]): string {
  return join(folder, "llama.cpp-build", "bin", name);
}

function modelPath(folder: string, shape: ShapeName): string {
  return join(folder, shape, "random-q4_0.gguf");
}

/** Fetches and builds the programs and writes the model, each unless it is there. Needs npm, git, CMake and a compiler. */
export async function prepareLlamaCpp(folder: string, shape: ShapeName): Promise<void> {
  const source = join(folder, "llama.cpp");
  if (!await exists(source)) {
    const [archive] = JSON.parse(await run("npm", ["pack", PACKAGE, "--json", "--pack-destination", folder]));
    await run("tar", ["-xzf", join(folder, archive.filename), "-C", folder, "package/llama/gitRelease.bundle"]);
    await run("git", ["clone", "--quiet", join(folder, "package/llama/gitRelease.bundle"), source]);
  }
  if (!(await Promise.all(PROGRAMS.map((name) => exists(program(folder, name))))).every(Boolean)) {
    const build = join(folder, "llama.cpp-build");
    await run("cmake", ["-S", source, "-B", build, ...BUILD_FLAGS.map((flag) => `-D${flag}`)]);
    await run("cmake", ["--build", build, "--parallel", "2", "--target", ...PROGRAMS]);
  }
  const model = modelPath(folder, shape);
  if (!await exists(model)) await writeRandomGguf(model, KNOWN_SHAPES[shape], 1);
}

/** What `llama-bench -o json` prints of a test. */
const BenchTests = z.tuple([z.looseObject({ samples_ts: z.array(z.number().positive()).min(1) })]);

/** What `llama-batched-bench --output-format jsonl` prints of a test. */
const BatchedTest = z.looseObject({ pl: z.literal(8), speed_tg: z.number().positive() });

/** llama.cpp with the model of a shape. */
export function llamaCpp(folder: string, shape: ShapeName): Participant {
  const model = modelPath(folder, shape);
  return {
    name: "llama.cpp",
    async measure({ threads, context, steps, prefillTokens, prefills }: Workload) {
      const bench = async (test: readonly string[]) => {
        const common = ["-m", model, "-t", `${threads}`, "-o", "json"];
        const printed = await run(program(folder, "llama-bench"), [...common, ...test]);
        return median(BenchTests.parse(JSON.parse(printed))[0].samples_ts);
      };
      const one = await bench(["-p", "0", "-n", `${steps}`, "-d", `${context}`, "-r", "1"]);
      const prefill = await bench(["-p", `${prefillTokens}`, "-n", "0", "-r", `${prefills}`]);
      const printed = await run(program(folder, "llama-batched-bench"), [
        ...["-m", model, "-t", `${threads}`, "-tb", `${threads}`, "-c", `${8 * (context + steps)}`],
        ...["-npp", `${context}`, "-ntg", `${steps}`, "-npl", "8", "--output-format", "jsonl"],
      ]);
      const test = printed.split("\n").find((line) => line.startsWith("{"));
      if (test === undefined) throw new Error(`llama-batched-bench printed no test: ${printed}`);
      return { one, prefill, eight: BatchedTest.parse(JSON.parse(test)).speed_tg };
    },
  };
}

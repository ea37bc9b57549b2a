import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, notEqual, ok, rejects, throws } from "node:assert/strict";
import { findCompiler } from "./build.ts";
import { buildCudaKernels, cudaSourceDigest, findNvcc, gpuArchitectures, knownTo } from "./cuda_build.ts";
import { cudaLibraryPath, openCudaKernels } from "./native_library.ts";

const compiler = await findCompiler();

/**
 * Has nvcc's manner and no compiler: "compiles" a file into its targets and itself, knows two architectures, and refuses a
 * source with an error in it.
 */
const IMITATED_NVCC = `#!/bin/sh
case "$1" in
  --version) echo "nvcc: imitated"; exit;;
  --list-gpu-code) printf 'sm_87\\nsm_90\\n'; exit;;
esac
input= targets= out=
while [ $# -gt 0 ]; do
  case "$1" in
    -gencode=*) targets="$targets [\${1#-gencode=}]";;
    -o) out=$2; shift;;
    -*) ;;
    *) input=$1;;
  esac
  shift
done
grep -q 'an error' "$input" && { echo "$input: error: no such luck" >&2; exit 1; }
{ echo "compiled for$targets"; cat "$input"; } > "$out"
`;

describe("cudaSourceDigest()", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await Deno.makeTempDir() + "/";
    await writeSources(folder);
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  it("changes with every source of both kinds and every architecture, and with nothing else", async () => {
    const digest = (gpus = ["sm_87", "sm_90"]) => cudaSourceDigest("x86_64", gpus, folder);
    const first = await digest();
    match(first, /^[0-9a-f]{16}$/);
    notEqual(await cudaSourceDigest("aarch64", ["sm_87", "sm_90"], folder), first);
    notEqual(await digest(["sm_87"]), first);
    for (const file of ["operator.cpp", "shared.h", "cuda/module.cpp", "cuda/sum.cu", "cuda/device.cuh"]) {
      const text = await Deno.readTextFile(folder + file).catch(() => "");
      await Deno.writeTextFile(folder + file, text + "\n");
      notEqual(await digest(), first, file);
      await (text === "" ? Deno.remove(folder + file) : Deno.writeTextFile(folder + file, text));
      equal(await digest(), first, file);
    }
    await Deno.mkdir(`${folder}cuda/parity`);
    await Deno.writeTextFile(`${folder}cuda/parity/main.cpp`, "int main() {}");
    await Deno.writeTextFile(`${folder}routines.cpp`, "the CPU's alone");
    equal(await digest(), first);
  });

  it("names the library", async () => {
    ok(
      (await cudaLibraryPath("aarch64", ["sm_87"])).endsWith(
        `/build/kernels/espalier-cuda-aarch64-${await cudaSourceDigest("aarch64", ["sm_87"])}.so`,
      ),
    );
  });
});

describe("gpuArchitectures()", () => {
  it("are those of ESPALIER_CUDA_ARCHITECTURES, once each, and else all", () => {
    const asked = (value: string) => withEnvironment("ESPALIER_CUDA_ARCHITECTURES", value, gpuArchitectures);
    deepEqual(asked(""), ["sm_87", "sm_90a", "sm_110"]);
    deepEqual(asked("sm_90a, sm_87,sm_87"), ["sm_90a", "sm_87"]);
    throws(() => asked("87"), { name: "SyntaxError", message: /"87"/ });
    throws(() => asked("sm_87;sm_90"), SyntaxError);
  });
});

if (Deno.build.os === "linux") {
  describe("With an nvcc", () => {
    let [folder, nvcc] = ["", ""];
    beforeAll(async () => {
      folder = await Deno.makeTempDir() + "/";
      nvcc = `${folder}nvcc`;
      await Deno.writeTextFile(nvcc, IMITATED_NVCC, { mode: 0o755 });
      await writeSources(`${folder}native/`);
    });
    afterAll(() => Deno.remove(folder, { recursive: true }));

    it("findNvcc() takes the one that is named, and none instead of it", async () => {
      equal(await withEnvironment("ESPALIER_NVCC", nvcc, findNvcc), nvcc);
      equal(await withEnvironment("ESPALIER_NVCC", "/nowhere/nvcc", findNvcc), null);
    });

    it("knownTo() leaves out what the compiler is too old for", async () => {
      deepEqual(await knownTo(nvcc, ["sm_87", "sm_90a", "sm_110"]), ["sm_87", "sm_90a"]);
    });

    it("openCudaKernels() says why there are none", async () => {
      // An architecture of no GPU: no library for it lies there.
      await withEnvironment("ESPALIER_CUDA_ARCHITECTURES", "sm_1", async () => {
        const { kernels, reason } = await withEnvironment("ESPALIER_NVCC", nvcc, () => openCudaKernels());
        equal(kernels, null);
        equal(
          reason,
          compiler === null
            ? "no compiler (c++, g++, clang++) and none built before"
            : `${nvcc} compiles for none of sm_1`,
        );
        const without = await withEnvironment("ESPALIER_NVCC", "/nowhere/nvcc", () => openCudaKernels());
        match(without.reason!, /no nvcc to be run/);
      });
      const off = await withEnvironment("ESPALIER_CUDA_KERNELS", "off", () => openCudaKernels());
      deepEqual(off, { kernels: null, reason: "switched off (ESPALIER_CUDA_KERNELS=off)" });
    });

    it("openCudaKernels() refuses a library that is none of ours", async () => {
      await withEnvironment("ESPALIER_CUDA_KERNELS", nvcc, () => rejects(openCudaKernels(), /nvcc/));
    });

    if (compiler !== null) {
      it("buildCudaKernels() embeds every kernel for every architecture, and runs the host's code", async () => {
        const out = `${folder}library.so`;
        const units: number[] = [];
        await buildCudaKernels({
          ...{ compiler, nvcc, architecture: Deno.build.arch, gpuArchitectures: ["sm_87", "sm_90"], out },
          sources: `${folder}native/`,
          onUnit: (done, total) => units.push(done / total),
        });
        // Two files of kernels, five of the host.
        deepEqual(units, Array.from({ length: 7 }, (_, index) => (index + 1) / 7));
        const library = Deno.dlopen(out, { EspalierCudaProblem: { parameters: [], result: "pointer" } });
        const embedded = Deno.UnsafePointerView.getCString(library.symbols.EspalierCudaProblem()!);
        const targets = "[arch=compute_87,code=sm_87] [arch=compute_90,code=sm_90]";
        equal(embedded, ["difference", "sum"].map((kernel) => `compiled for ${targets}\n${kernel}\n`).join(""));
        library.close();
        const state = await withEnvironment("ESPALIER_CUDA_KERNELS", out, () => openCudaKernels());
        deepEqual(state, { kernels: { path: out, skipped: [] }, reason: null });
      });

      it("buildCudaKernels() fails with nvcc's own words, and leaves nothing behind", async () => {
        const sources = `${folder}broken/`;
        await writeSources(sources);
        await Deno.writeTextFile(`${sources}cuda/sum.cu`, "an error");
        await Deno.mkdir(`${folder}empty`);
        const build = buildCudaKernels({
          ...{ compiler, nvcc, architecture: Deno.build.arch, gpuArchitectures: ["sm_87"], sources },
          out: `${folder}empty/library.so`,
        });
        await rejects(build, /failed:\n.*sum\.cu: error: no such luck/s);
        deepEqual(await Array.fromAsync(Deno.readDir(`${folder}empty`)), []);
      });
    }
  });
}

/** Two kernels' files, and a host that gives back what was embedded. */
async function writeSources(folder: string): Promise<void> {
  await Deno.mkdir(`${folder}cuda`, { recursive: true });
  const files = {
    "operator.cpp": '#include "shared.h"\n',
    "layer_attributes.cpp": "",
    "memory.cpp": "",
    "shared.h": "extern const char* kernels;\n",
    "cuda/sum.cu": "sum\n",
    "cuda/difference.cu": "difference\n",
    "cuda/module.cpp": `
asm(".data\\nembedded: .incbin \\"" ESPALIER_FATBIN "\\"\\n.byte 0\\n.previous\\n");
extern "C" const char embedded[] __attribute__((visibility("hidden")));
const char* kernels = embedded;
`,
    "cuda/register.cpp": `
#include "../shared.h"
extern "C" __attribute__((visibility("default"))) const char* EspalierCudaProblem() { return kernels; }
`,
  };
  for (const [file, text] of Object.entries(files)) await Deno.writeTextFile(folder + file, text);
}

/** Also of a function that answers later. */
function withEnvironment<Result>(name: string, value: string, run: () => Result): Result {
  const before = Deno.env.get(name);
  const restore = () => before === undefined ? Deno.env.delete(name) : Deno.env.set(name, before);
  Deno.env.set(name, value);
  let result: Result;
  try {
    result = run();
  } catch (error) {
    restore();
    throw error;
  }
  if (result instanceof Promise) return result.finally(restore) as Result;
  restore();
  return result;
}

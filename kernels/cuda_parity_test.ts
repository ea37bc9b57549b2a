import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { compile, eachAtOnce } from "./build.ts";

const SOURCES = fileURLToPath(new URL("native/cuda/", import.meta.url));

/** What computes where the kernels' launches are planned, and the program itself. */
const HOST_UNITS = ["prefix_product", "lane_attention", "lane_scan", "parity/main"];

const FLAGS = ["-std=c++17", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all"];

/** The emulation stands on what GCC lets a header do. */
const COMPILER = "g++";

const compiler = await new Deno.Command(COMPILER, { args: ["--version"], stdout: "null", stderr: "null" }).output()
  .then(
    ({ success }) => success,
    () => false,
  );

describe("Kernels for CUDA, thread by thread, against plain loops", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await Deno.makeTempDir();
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  if (!compiler) {
    it.skip(`there is no ${COMPILER}`, () => {});
  } else {
    it("holds for random shapes, levels and batches, under the sanitizer of undefined behaviour", async () => {
      const program = await build(folder);
      for (const seed of ["1", "2"]) {
        const { success, stdout, stderr } = await new Deno.Command(program, { args: ["--seed", seed] }).output();
        const output = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
        ok(success && / 0 failed\n$/.test(output), output);
      }
    });
  }
});

/** @returns The program's path. */
async function build(folder: string): Promise<string> {
  const emulated = ["-Wno-unknown-pragmas", "-include", `${SOURCES}parity/emulation.h`];
  const units: { source: string; flags: readonly string[] }[] = [
    { source: "parity/emulated_device.cpp", flags: emulated },
    ...HOST_UNITS.map((unit) => ({ source: `${unit}.cpp`, flags: [] })),
  ];
  for await (const { name } of Deno.readDir(SOURCES)) {
    if (name.endsWith(".cu")) units.push({ source: name, flags: [...emulated, "-x", "c++"] });
  }
  const object = (index: number) => `${folder}/${index}.o`;
  await eachAtOnce(units, async ({ source, flags }, index) => {
    await compile(COMPILER, [...FLAGS, ...flags, "-c", `${SOURCES}${source}`, "-o", object(index)]);
  });
  const program = `${folder}/parity`;
  await compile(COMPILER, [...FLAGS, "-o", program, ...units.map((_, index) => object(index))]);
  return program;
}

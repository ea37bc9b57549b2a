import { describe, it } from "@std/testing/bdd";
import { equal, ok, rejects } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openKernels } from "../kernels/native_library.ts";
import { multiply, openProduct, type ProductOptions } from "./support/one_product.ts";
import type { SessionMemory } from "./support/session_memory.ts";

const { kernels, reason } = await openKernels();

describe("PrefixMatMul in a session", () => {
  if (kernels === null) {
    it.skip(`there are no kernels: ${reason}`, () => {});
    return;
  }
  const { path } = kernels;

  it("refuses what is no layer, by name", async () => {
    const refused: [Omit<ProductOptions, "inFeatures" | "outFeatures">, RegExp][] = [
      [{ bytes: 4000 }, /PrefixMatMul: 4096 elements of 1 bytes at byte 0 of 4000/],
      [{ bytes: 4222 }, /PrefixMatMul: 64 elements of 2 bytes at byte 4096 of 4222/],
      [{ fileVaries: true }, /Input 4 must be a constant/],
      [{ attributes: { places: [-1, 4096] } }, /PrefixMatMul: 4096 elements of 1 bytes at byte -1 of 4224/],
      [{ attributes: { places: [0, 4095] } }, /PrefixMatMul: 64 elements of 2 bytes at byte 4095 of 4224/],
      [{ attributes: { places: [0] } }, /PrefixMatMul: 1 places, wanted more/],
      [{ attributes: { places: [0, 4096, 0] } }, /PrefixMatMul: 3 places, wanted 2/],
      [{ attributes: { cut: 3 } }, /PrefixMatMul: cut 3, activation 0, uncut 256 describe no layer/],
      [{ attributes: { activation: 2 } }, /activation 2, .* describe no layer/],
      [{ attributes: { cut: 2, activation: 1 } }, /cut 2 has 1 axes and activation 1: only outputs can have/],
      [{ attributes: { cut: 1, groups: [2, 2] } }, /cut 1 has 2 axes/],
      [{ attributes: { cut: 1, groups: [3] } }, /axis 0 has 3 groups: wanted .* two where they are gated/],
      [{ attributes: { groups: [0] } }, /axis 0 has 0 groups: wanted at least one/],
      [{ attributes: { groups: [-1] } }, /axis 0 has -1 groups/],
      [{ attributes: { block_size: 48 } }, /PrefixMatMul: block_size 48, wanted 32, 64 or 128/],
      [{ attributes: { block_size: 96 } }, /block_size 96, wanted/],
      [{ attributes: { block_size: 1024 } }, /block_size 1024, wanted/],
      [{ attributes: { widths: [16, 16] } }, /2 widths, 1 levels and 1 biases of 1 axes do not belong together/],
      [{ attributes: { widths: [0] } }, /chunk 0 has no channels/],
      [{ attributes: { widths: [-1] } }, /chunk 0 has width -1/],
      [{ attributes: { levels: [-1] } }, /chunk 0 has level -1/],
      [{ attributes: { widths: [33] } }, /66 elements of 2 bytes at byte 4096 of 4224/],
      [{ attributes: { biases: [1] } }, /PrefixMatMul: 2 places, wanted more/],
    ];
    for (const [options, message] of refused) {
      await rejects(openProduct(path, { inFeatures: 256, outFeatures: 32, ...options }), message);
    }
    using session = await openProduct(path, { inFeatures: 256, outFeatures: 32 });
    await rejects(multiply(session, 128, 32), /x has 256 elements in 2 rows, wanted 256 a row/);
    const [first, ...others] = await multiply(session, 256, 32);
    equal(others.length, 63);
    ok(first! !== 0 && Number.isFinite(first));
  });

  // Where else memory cannot be told exactly, no test needs to say it again.
  if (Deno.build.os === "linux") {
    it("gives its memory back when the session closes", async () => {
      const [size, sessions] = [2048, 20];
      const script = fileURLToPath(new URL("./support/session_memory.ts", import.meta.url));
      const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--allow-all", "--v8-flags=--expose-gc", script, path, `${size}`, `${sessions}`, "5"],
        cwd: fileURLToPath(new URL("..", import.meta.url)),
      }).output();
      ok(success, new TextDecoder().decode(stderr));
      const { rounds, open } = JSON.parse(new TextDecoder().decode(stdout)) as SessionMemory;
      // What is lost stays lost, in every round; a thread's own memory comes once.
      for (const kind of ["allocated", "mapped", "arrays"] as const) {
        const more = rounds.slice(1).map((now, i) => now[kind] - rounds[i]![kind]);
        const typical = more.toSorted((a, b) => a - b)[more.length >> 1]!;
        // Of a session less than a page: its smallest table has two.
        ok(typical < sessions * 4096, `${sessions} sessions more, bytes more that are ${kind}: ${more.join(", ")}`);
      }
      // And it would have been seen.
      const more = open.mapped - rounds.at(-1)!.mapped;
      ok(more >= size * size / 2, `${more} bytes are mapped for an open session`);
    });
  }

  it("registers nothing that would run when the process ends or the library is unloaded", async () => {
    // What compilers call for every object with a destructor at namespace or function scope.
    const symbols = new TextDecoder("latin1").decode(await Deno.readFile(path));
    ok(symbols.includes("RegisterCustomOps\0"));
    ok(!/\0(__cxa_atexit|atexit|__cxa_thread_atexit)\0/.test(symbols));
  });

  it("lets the process end with the session open, and in the middle of a run", async () => {
    const support = JSON.stringify(import.meta.resolve("./support/one_product.ts"));
    for (const ending of ["await multiply(session, 512, 512)", "void multiply(session, 512, 512); Deno.exit(0)"]) {
      const { success, code, signal, stderr } = await new Deno.Command(Deno.execPath(), {
        args: [
          "eval",
          `import { multiply, openProduct } from ${support};
           const session = await openProduct(${JSON.stringify(path)}, { inFeatures: 512, outFeatures: 512 });
           ${ending};`,
        ],
        cwd: fileURLToPath(new URL("..", import.meta.url)),
      }).output();
      ok(success, `${ending}: ended with ${signal ?? code}: ${new TextDecoder().decode(stderr)}`);
    }
  });
});

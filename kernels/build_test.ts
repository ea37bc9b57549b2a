import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import { buildKernels, findCompiler, sourceDigest } from "./build.ts";
import { libraryPath } from "./native_library.ts";

const compiler = await findCompiler();

describe("sourceDigest()", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await Deno.makeTempDir() + "/";
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  it("changes with every byte of a source, its name and the architecture, and with nothing else", async () => {
    const digest = () => sourceDigest("x86_64", folder);
    await Deno.writeTextFile(`${folder}a.cpp`, "int a;");
    const first = await digest();
    match(first, /^[0-9a-f]{16}$/);
    notEqual(first, await sourceDigest("aarch64", folder));
    await Deno.mkdir(`${folder}parity`);
    await Deno.writeTextFile(`${folder}notes.txt`, "none of the library's");
    equal(await digest(), first);
    await Deno.writeTextFile(`${folder}a.cpp`, "int b;");
    notEqual(await digest(), first);
    await Deno.writeTextFile(`${folder}a.cpp`, "int a;");
    equal(await digest(), first);
    await Deno.rename(`${folder}a.cpp`, `${folder}b.cpp`);
    notEqual(await digest(), first);
  });

  it("names the library", async () => {
    ok((await libraryPath("aarch64")).endsWith(`/build/kernels/espalier-aarch64-${await sourceDigest("aarch64")}.so`));
  });
});

if (compiler !== null) {
  describe("buildKernels()", () => {
    it("fails with the compiler's own words, and leaves nothing behind", async () => {
      const folder = await Deno.makeTempDir();
      try {
        const build = buildKernels({
          ...{ compiler, architecture: Deno.build.arch, out: `${folder}/library.so` },
          program: "no_such_unit",
        });
        await rejects(build, /failed:\n.*no_such_unit\.cpp/s);
        deepEqual(await Array.fromAsync(Deno.readDir(folder)), []);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    });
  });
}

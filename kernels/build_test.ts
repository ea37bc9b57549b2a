import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, notEqual, ok, rejects } from "node:assert/strict";
import { buildKernels, findCompiler, sourceDigest } from "./build.ts";
import { libraryPath } from "./native_library.ts";

const compiler = await findCompiler();

/** A program that says in one line what a library of ours has. */
const OPENS_KERNELS = `
import { describeKernels, openKernels } from ${JSON.stringify(new URL("native_library.ts", import.meta.url).href)};
console.log(describeKernels((await openKernels()).kernels));`;

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
    if (Deno.build.arch === "x86_64") {
      it("leaves out instruction sets that the compiler is too old for, and the library says so", async () => {
        const folder = await Deno.makeTempDir();
        try {
          const [old, out] = [`${folder}/old`, `${folder}/library.so`];
          await Deno.writeTextFile(
            old,
            `#!/bin/sh\nfor flag; do case $flag in -mavxvnni | -mamx-*) exit 1 ;; esac; done\nexec ${compiler} "$@"\n`,
            { mode: 0o755 },
          );
          await buildKernels({ compiler: old, architecture: "x86_64", out, flags: ["-O0"] });
          const { stdout } = await new Deno.Command(Deno.execPath(), {
            args: ["eval", OPENS_KERNELS],
            env: { ESPALIER_KERNELS: out, ESPALIER_INSTRUCTION_SET: "portable" },
          }).output();
          equal(
            new TextDecoder().decode(stdout),
            "portable (compiled without amx, avxvnni, unknown to the compiler)\n",
          );
          for (const set of ["amx", "avxvnni"]) {
            const { stderr } = await new Deno.Command(Deno.execPath(), {
              args: ["eval", OPENS_KERNELS],
              env: { ESPALIER_KERNELS: out, ESPALIER_INSTRUCTION_SET: set },
            }).output();
            match(
              new TextDecoder().decode(stderr),
              new RegExp(`must be one of .*, not "${set}" \\(the library was compiled without amx, avxvnni`),
            );
          }
        } finally {
          await Deno.remove(folder, { recursive: true });
        }
      });
    }

    it("compiles every file of the folder but other processors', and links no library that lacks a symbol", async () => {
      const folder = await Deno.makeTempDir() + "/";
      try {
        const [sources, out] = [`${folder}native/`, `${folder}built/library.so`];
        for (const name of [sources, `${folder}built`]) await Deno.mkdir(name);
        const files = {
          "kinds.cpp":
            'extern int scale;\nextern "C" __attribute__((visibility("default"))) int kinds() { return scale; }\n',
          "notes.txt": "no unit",
          [Deno.build.arch === "x86_64" ? "routines_i8mm.cpp" : "routines_avx2.cpp"]: "#error of another processor",
        };
        for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(sources + name, text);
        const options = { compiler, architecture: Deno.build.arch, out, sources };
        await rejects(buildKernels(options), /failed:\n.*undefined.*scale/s);
        deepEqual(await Array.fromAsync(Deno.readDir(`${folder}built`)), []);
        await Deno.writeTextFile(`${sources}scale.cpp`, "int scale = 7;\n");
        await buildKernels(options);
        const library = Deno.dlopen(out, { kinds: { parameters: [], result: "i32" } });
        equal(library.symbols.kinds(), 7);
        library.close();
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    });

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

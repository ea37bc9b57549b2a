import { afterEach, beforeEach, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openKernels } from "./native_library.ts";

const HERE = fileURLToPath(new URL(".", import.meta.url));

/** A library of ours, for what imitates a compiler. */
const real = Deno.build.os === "linux" ? (await openKernels()).kernels?.path : undefined;

if (Deno.build.os !== "linux") {
  describe("openKernels()", () => {
    it("says that kernels are made for Linux", async () => {
      const { reason } = await openKernels();
      equal(reason, `kernels are made for Linux, not ${Deno.build.os}`);
    });
  });
} else {
  describe("openKernels() where nothing was built before", () => {
    let folder = "";
    beforeEach(async () => {
      folder = await Deno.makeTempDir();
      await Deno.mkdir(`${folder}/kernels/native`, { recursive: true });
      for (const file of ["build.ts", "cuda_build.ts", "native_library.ts", "seal.ts", "native/routines.cpp"]) {
        await Deno.copyFile(HERE + file, `${folder}/kernels/${file}`);
      }
      await Deno.mkdir(`${folder}/bin`);
    });
    afterEach(() => Deno.remove(folder, { recursive: true }));

    /** What `openKernels()` gives in a process that finds programs in `bin` alone and may run those that are named. */
    async function open(run = "--allow-run"): Promise<Record<string, unknown>> {
      const module = JSON.stringify(`file://${folder}/kernels/native_library.ts`);
      await Deno.writeTextFile(
        `${folder}/open.ts`,
        `import { libraryPath, openKernels } from ${module};
        const { kernels, reason, failure } = await openKernels();
        const path = await libraryPath(Deno.build.arch);
        console.log(JSON.stringify({ opened: kernels !== null, reason, failure: failure?.message, path }));`,
      );
      const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-config", "--allow-env", "--allow-ffi", "--allow-read", "--allow-write", run, "open.ts"],
        cwd: folder,
        env: { PATH: `${folder}/bin`, ESPALIER_KERNELS: "", ESPALIER_INSTRUCTION_SET: "" },
      }).output();
      const output = new TextDecoder().decode(stdout);
      ok(output !== "", new TextDecoder().decode(stderr));
      return JSON.parse(output);
    }

    /** A compiler that does as the lines say, with the output's path in `$out`. */
    async function imitate(compiler: string, lines: string): Promise<void> {
      await Deno.writeTextFile(
        `${folder}/bin/${compiler}`,
        `#!/bin/sh\nfor flag; do [ "$last" = -o ] && out=$flag; last=$flag; done\n${lines}\n`,
        { mode: 0o755 },
      );
    }

    it("says that there is no compiler", async () => {
      const { opened, reason } = await open();
      deepEqual([opened, reason], [false, "no compiler (c++, g++, clang++) and none built before"]);
    });

    it("runs no compiler that it would have to ask for, and says which it tried", async () => {
      await imitate("g++", `echo > ${folder}/ran`);
      const all = "deno task build tries c++, g++, clang++";
      equal(
        (await open("--allow-run=c++")).reason,
        `no compiler (none that may be run; ${all}) and none built before`,
      );
      await imitate("c++", "exit 1");
      equal((await open("--allow-run=c++")).reason, `no compiler (c++; ${all}) and none built before`);
      ok(!await Deno.stat(`${folder}/ran`).then(() => true, () => false));
    });

    it("says in a line why a compiler fails, and keeps its own words", async () => {
      await imitate(
        "c++",
        `[ -z "$out" ] && exit\necho "In file included from routines.cpp" >&2\necho "a.h:1: fatal error: no cmath" >&2\nexit 1`,
      );
      const { opened, reason, failure } = await open();
      equal(opened, false);
      equal(reason, "cannot be built in build/kernels: c++ failed: a.h:1: fatal error: no cmath");
      equal(failure, "c++ failed:\nIn file included from routines.cpp\na.h:1: fatal error: no cmath\n");
    });

    it("says that the folder cannot be written", async () => {
      await imitate("c++", "");
      await Deno.writeTextFile(`${folder}/build`, "no folder");
      const { opened, reason } = await open();
      equal(opened, false);
      match(`${reason}`, /^cannot be built in build\/kernels: .*os error/);
    });

    if (real === undefined) {
      it.skip("there is no library for an imitated compiler", () => {});
      return;
    }

    it("builds again what cannot be opened, and without a compiler says so", async () => {
      const path = `${(await open()).path}`;
      await Deno.mkdir(`${folder}/build/kernels`, { recursive: true });
      const whole = await Deno.readFile(real);
      // A disk that was full or lost power; the last would be opened and end the process.
      const damaged = {
        "empty": whole.subarray(0, 0),
        "zeros at its end": whole.map((byte, index) => index < whole.length - 4096 ? byte : 0),
        "cut behind its headers": whole.subarray(0, Math.floor(whole.length * 0.7)),
      };
      for (const [how, bytes] of Object.entries(damaged)) {
        await Deno.remove(`${folder}/bin/c++`).catch(() => {});
        await Deno.writeFile(path, bytes);
        const reason = `${(await open()).reason}`;
        match(reason, /^no compiler \(.+\) and the one built before cannot be used: .*espalier-.*: cut short/, how);
        await imitate("c++", `[ -z "$out" ] || /bin/cp ${real} "$out"`);
        equal((await open()).opened, true, how);
        deepEqual((await Deno.readFile(path)).subarray(0, whole.length), whole, how);
      }
    });

    it("removes what builds left that were interrupted long ago", async () => {
      await imitate("c++", `[ -z "$out" ] || /bin/cp ${real} "$out"`);
      const built = `${folder}/build/kernels`;
      for (const library of ["built", "found"]) {
        for (const [name, hours] of [["objects-old", 2], ["objects-young", 0], ["others", 2]] as const) {
          await Deno.mkdir(`${built}/${name}`, { recursive: true });
          const time = Date.now() / 1000 - hours * 3600;
          await Deno.utime(`${built}/${name}`, time, time);
        }
        equal((await open()).opened, true);
        const left = (await Array.fromAsync(Deno.readDir(built))).map(({ name }) => name);
        deepEqual(left.filter((name) => !name.endsWith(".so")).sort(), ["objects-young", "others"], library);
      }
    });
  });
}

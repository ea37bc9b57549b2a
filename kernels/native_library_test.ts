import { describe, it } from "@std/testing/bdd";
import { equal } from "node:assert/strict";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));

describe("openKernels()", () => {
  it("says that there is no compiler, and that nothing was built before", async () => {
    const folder = await Deno.makeTempDir();
    try {
      await Deno.mkdir(`${folder}/kernels/native`, { recursive: true });
      for (const file of ["build.ts", "cuda_build.ts", "native_library.ts", "native/routines.cpp"]) {
        await Deno.copyFile(HERE + file, `${folder}/kernels/${file}`);
      }
      const module = JSON.stringify(`file://${folder}/kernels/native_library.ts`);
      const { stdout } = await new Deno.Command(Deno.execPath(), {
        args: [
          "eval",
          "--no-config",
          `import { openKernels } from ${module}; console.log(JSON.stringify(await openKernels()));`,
        ],
        env: { PATH: folder, ESPALIER_KERNELS: "" },
      }).output();
      const reason = Deno.build.os === "linux"
        ? "no compiler (c++, g++, clang++) and none built before"
        : `kernels are made for Linux, not ${Deno.build.os}`;
      equal(new TextDecoder().decode(stdout), JSON.stringify({ kernels: null, reason }) + "\n");
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

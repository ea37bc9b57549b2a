import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** What each folder may import besides itself. Entry points (`main.ts`, `commands/`) join everything together. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  routes: ["engine", "models"],
  engine: ["models"],
  compression: ["models", "onnx", "kernels"],
  models: ["onnx"],
  onnx: ["kernels"],
  kernels: [],
};

/** Packages that only one folder may import. */
const FENCED: Readonly<Record<string, readonly string[]>> = {
  "hono": ["routes"],
  "onnxruntime-node": ["onnx"],
};

interface Edge {
  readonly from: string;
  readonly to: string;
}

async function productionFiles(folder: string): Promise<string[]> {
  const files: string[] = [];
  for await (const entry of Deno.readDir(`${ROOT}${folder}`)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) files.push(...await productionFiles(path));
    else if (entry.name.endsWith(".ts") && !entry.name.endsWith("_test.ts")) files.push(path);
  }
  return files;
}

/** Every import of every module, type imports too, as Deno resolves them. */
async function importsOf(folder: string): Promise<Edge[]> {
  const edges: Edge[] = [];
  for (const file of await productionFiles(folder)) {
    const { stdout, success } = await new Deno.Command(Deno.execPath(), {
      args: ["info", "--json", "--no-remote", file],
      cwd: ROOT,
      stderr: "null",
    }).output();
    ok(success, `deno info failed on ${file}`);
    const { modules, roots } = JSON.parse(new TextDecoder().decode(stdout));
    const own = modules.find(({ specifier }: { specifier: string }) => specifier === roots[0]);
    for (const { code, type } of own.dependencies ?? []) {
      for (const target of [code, type]) {
        if (target?.specifier !== undefined) {
          edges.push({ from: file, to: target.specifier.replace(`file://${ROOT}`, "") });
        }
      }
    }
  }
  return edges;
}

describe("The house", () => {
  for (const [folder, allowed] of Object.entries(ALLOWED)) {
    it(`${folder}/ imports only ${["itself", ...allowed].join(", ")}, and fenced packages only where they belong`, async () => {
      const edges = await importsOf(folder);
      ok(edges.length > 0 || folder === "kernels", `no imports were found in ${folder}/`);
      const wrong = edges.filter(({ to }) => {
        const packageName = /^npm:\/?(@[^/]+\/[^/@]+|[^/@]+)/.exec(to)?.[1];
        if (packageName !== undefined) {
          const fence = Object.entries(FENCED).find(([name]) =>
            packageName === name || packageName.startsWith(`@${name}/`)
          );
          return fence !== undefined && !fence[1].includes(folder);
        }
        if (to.startsWith("node:")) return false;
        return ![folder, ...allowed].includes(to.split("/")[0]!);
      });
      deepEqual(wrong, []);
    });
  }

  it("opens native libraries only in onnx/ and kernels/", async () => {
    const offenders: string[] = [];
    for (const folder of ["routes", "engine", "compression", "models"]) {
      for (const file of await productionFiles(folder)) {
        if (/Deno\.dlopen/.test(await Deno.readTextFile(`${ROOT}${file}`))) offenders.push(file);
      }
    }
    deepEqual(offenders, []);
  });
});

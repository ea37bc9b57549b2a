import { describe, it } from "@std/testing/bdd";
import { deepEqual, ok } from "node:assert/strict";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const FOLDERS = ["onnx", "models", "compression", "engine", "routes", "kernels", "commands"];

interface DocSymbol {
  readonly name: string;
  readonly declarations: readonly {
    readonly kind: string;
    readonly declarationKind?: string;
    readonly jsDoc?: { readonly doc?: string; readonly tags?: readonly unknown[] };
    readonly location?: { readonly filename: string; readonly line: number };
  }[];
}

const SOURCE = /\.(ts|js|h|cpp|cu|cuh|inc)$/;
const COMMENT = /\/\*.*?\*\/|(?<!:)\/\/[^\n]*/gs;
/** Not in an address: those have a slash more before. */
const DOCUMENT = /(?<![\w./-])[\w-][\w./-]*\.md\b/g;

async function allFiles(folder = ""): Promise<string[]> {
  const files: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(`${ROOT}${folder}`)) {
    if (name.startsWith(".") || ["node_modules", "build", "cache"].includes(name)) continue;
    if (isDirectory) files.push(...await allFiles(`${folder}${name}/`));
    else files.push(`${folder}${name}`);
  }
  return files;
}

async function sources(folder: string): Promise<string[]> {
  const files: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(`${ROOT}${folder}`)) {
    if (isDirectory && name !== "testing") files.push(...await sources(`${folder}/${name}`));
    else if (!isDirectory && name.endsWith(".ts") && !name.endsWith("_test.ts")) files.push(`${folder}/${name}`);
  }
  return files;
}

describe("The documentation", () => {
  it("says of every exported function and class what it is", async () => {
    const files = (await Promise.all(FOLDERS.map(sources))).flat().sort();
    const { stdout, success } = await new Deno.Command(Deno.execPath(), {
      args: ["doc", "--json", ...files],
      cwd: ROOT,
      stderr: "null",
    }).output();
    ok(success, "deno doc failed");
    const { nodes } = JSON.parse(new TextDecoder().decode(stdout)) as {
      nodes: Readonly<Record<string, { readonly symbols: readonly DocSymbol[] }>>;
    };
    const undocumented: string[] = [];
    let exported = 0;
    for (const [file, { symbols }] of Object.entries(nodes)) {
      for (const { name, declarations } of symbols) {
        for (const { kind, declarationKind, jsDoc } of declarations) {
          if (declarationKind !== "export" || !["function", "class"].includes(kind)) continue;
          exported++;
          if (!jsDoc?.doc && !jsDoc?.tags?.length) undocumented.push(`${file.replace(`file://${ROOT}`, "")}: ${name}`);
        }
      }
    }
    ok(exported > 100, `only ${exported} exports were found`);
    deepEqual(undocumented, []);
  });

  it("is there wherever a comment names a file of it", async () => {
    const files = await allFiles();
    const there = new Set(files);
    const missing: string[] = [];
    let named = 0;
    for (const file of files.filter((file) => SOURCE.test(file))) {
      const comments = (await Deno.readTextFile(`${ROOT}${file}`)).match(COMMENT) ?? [];
      for (const [document] of comments.join("\n").matchAll(DOCUMENT)) {
        named++;
        if (!there.has(document) && !there.has(`docs/${document}`)) missing.push(`${file}: ${document}`);
      }
    }
    ok(named > 10, `only ${named} were found`);
    deepEqual(missing, []);
  });
});

import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, ok } from "node:assert/strict";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import project from "../deno.json" with { type: "json" };
import { fileDigest, isArtefact, openArtefact } from "../models/artefact.ts";
import { SUPPORTED_ARCHITECTURES } from "../models/families/mod.ts";
import { decodeManifest, encodeManifest } from "../models/manifest.ts";
import { PRUNING_RATES } from "../models/widths.ts";
import { writeTinyCheckpoint } from "./support/tiny_checkpoint.ts";
import { TINY_LLAMA } from "./support/tiny_models.ts";

type Task = "start" | "compress" | "evaluate" | "generate" | "export" | "bench";

const FLAGS: Readonly<Record<Task, readonly string[]>> = {
  start: [
    ...["host", "port", "model", "device", "threads", "slots", "max-context", "prefill-chunk", "max-waiting"],
    ...["max-waiting-tokens", "policy", "shed", "step-times", "target-ttft-ms", "target-tpot-ms"],
    ...["max-body-bytes", "max-prompt-length", "max-json-depth"],
    ...["api-keys", "api-keys-file", "allow-without-keys", "metrics-without-key", "cors-origins", "allowed-hosts"],
    ...["max-connections", "max-header-bytes", "header-seconds", "request-seconds", "idle-seconds", "stalled-seconds"],
    ...["drain-seconds", "log-prompts", "prometheus-url", "prometheus-query", "prometheus-seconds", "sysfs"],
  ],
  compress: [
    ...["model", "out", "calibration", "samples", "sequence-length", "block-size", "recipe", "seed", "name", "threads"],
  ],
  evaluate: [
    "model",
    "text",
    "rate",
    "narrow-to",
    "all-rates",
    "sequence-length",
    "max-tokens",
    "json",
    "device",
    "threads",
  ],
  generate: ["model", "prompt", "rate", "max-new-tokens", "temperature", "seed", "device", "threads"],
  export: ["model", "out", "rate"],
  bench: [
    "model",
    "shape",
    "block-size",
    "rounds",
    "context",
    "long-context",
    "prefill-tokens",
    "prefill-context",
    "device",
    "prompt-tokens",
    "output-tokens",
    "rate",
    "bandwidth",
    "slots",
    "threads",
    "profile",
    "json",
  ],
};
const TASKS = Object.keys(FLAGS) as Task[];

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A command as its task runs it, with that task's permissions and without a process in between. */
function command(task: Task, args: readonly string[]): Deno.ChildProcess {
  const [deno, ...own] = project.tasks[task].split(" ");
  equal(deno, "deno");
  return new Deno.Command(Deno.execPath(), {
    args: [...own, ...args],
    cwd: fileURLToPath(new URL("..", import.meta.url)),
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function ended(child: Deno.ChildProcess): Promise<Ended> {
  const { code, stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const run = (task: Task, ...args: string[]) => ended(command(task, args));

/** The command ends with 1 and says why in words. */
async function refused(said: RegExp, task: Task, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await run(task, ...args);
  match(stderr, said);
  ok(!/^\s+at .*:\d+:\d+/m.test(stderr), `a stack: ${stderr}`);
  deepEqual([code, stdout], [1, ""]);
}

describe("Commands", () => {
  let folder: string;
  let artefact: string;
  let calibrate: string[];

  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    artefact = `${folder}/artefact`;
    await writeTinyCheckpoint(`${folder}/checkpoint`, TINY_LLAMA, 1);
    const text = await Deno.readTextFile(new URL("../artifacts/calibration.txt", import.meta.url));
    await Deno.writeTextFile(`${folder}/text.txt`, text.slice(0, 4000));
    calibrate = ["--calibration", `${folder}/text.txt`, "--sequence-length", "32", "--threads", "1"];
    await Deno.writeTextFile(`${folder}/garbage.gguf`, "GGUF and nothing");
    await Deno.mkdir(`${folder}/empty`);
    await Deno.mkdir(`${folder}/mamba`);
    await Deno.writeTextFile(`${folder}/mamba/config.json`, JSON.stringify({ architectures: ["MambaForCausalLM"] }));
    for (const [name, json] of [["no-json", "{"], ["no-object", "[]"], ["no-architecture", "{}"]]) {
      await Deno.mkdir(`${folder}/${name}`);
      await Deno.writeTextFile(`${folder}/${name}/config.json`, json!);
    }
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  for (const task of TASKS) {
    it(`${task} --help lists its flags`, async () => {
      const { code, stdout, stderr } = await run(task, "--help");
      deepEqual([code, stderr], [0, ""]);
      deepEqual([...stdout.matchAll(/^ {2}--([\w-]+)/gm)].map(([, flag]) => flag), [...FLAGS[task], "help"]);
    });

    it(`${task} refuses a flag that it does not know`, async () => {
      const { code, stdout, stderr } = await run(task, "--modle", "x");
      deepEqual([code, stdout], [2, ""]);
      match(stderr, /--modle/);
      match(stderr, /--help/);
    });
  }

  it("compress makes an artefact, reports it, and never writes over one", async () => {
    const args = ["--model", `${folder}/checkpoint`, "--out", artefact, "--samples", "6", ...calibrate];
    const { code, stdout, stderr } = await run("compress", ...args);
    equal(code, 0, stderr);
    match(stdout, /^35 % .*\d$/m);
    const { levels, name } = await openArtefact(artefact);
    deepEqual([name, levels.map(({ pruningRate }) => pruningRate)], ["artefact", PRUNING_RATES]);
    ok(levels.every(({ perplexity }) => perplexity !== null && perplexity > 1));
    const { levels: reported } = JSON.parse(await Deno.readTextFile(`${artefact}/report.json`));
    deepEqual(reported.map(({ perplexity }: { perplexity: number }) => perplexity), levels.map((l) => l.perplexity));
    const files = await Array.fromAsync(Deno.readDir(artefact), (entry) => entry.name);
    deepEqual(files.sort(), [
      ...["espalier.json", "report.json", "tokenizer.json", "tokenizer_config.json", "weights.safetensors"],
    ]);
    await refused(/artefact exists and is not empty/, "compress", ...args);

    // Two texts are two files, each of which must be there and be long enough.
    const text = `${folder}/text.txt`;
    await Deno.writeTextFile(`${folder}/short.txt`, "Too short.");
    const both = (
      texts: string,
    ) => ["--model", `${folder}/checkpoint`, "--out", `${folder}/two`, "--calibration", texts];
    await refused(/nowhere\.txt/, "compress", ...both(`${text},${folder}/nowhere.txt`));
    await refused(
      /text 2 of 2 has \d+, /,
      "compress",
      ...both(`${text},${folder}/short.txt`),
      "--sequence-length",
      "32",
    );
    const two = await run("compress", ...both(`${text},${text}`), "--samples", "6", ...calibrate.slice(2));
    equal(two.code, 0, two.stderr);
  });

  it("evaluate prints rate, perplexity and tokens as JSON", async () => {
    const text = ["--text", `${folder}/text.txt`, "--sequence-length", "32", "--max-tokens", "100", "--json"];
    const every = await run("evaluate", "--model", artefact, "--all-rates", ...text);
    equal(every.code, 0, every.stderr);
    const found = JSON.parse(every.stdout) as Record<string, number>[];
    const fields = ["rate", "perplexity", "tokens", "standardError", "ratioToFirst", "ratioStandardError"];
    deepEqual(found.map((row) => Object.keys(row)), PRUNING_RATES.map(() => fields));
    ok(found.every(({ perplexity, standardError }) => standardError! > 0 && standardError! < perplexity!));
    for (const { perplexity, ratioToFirst } of found) {
      ok(Math.abs(ratioToFirst! * found[0]!["perplexity"]! / perplexity! - 1) < 1e-9);
    }
    deepEqual(found.map(({ rate, tokens }) => [rate, tokens]), PRUNING_RATES.map((rate) => [rate, 3 * 31]));
    ok(found.every(({ perplexity }) => perplexity! > 1 && perplexity! < 1e6));

    const halves = await run("evaluate", "--model", artefact, "--rate", "0", "--narrow-to", "0.35", ...text);
    equal(halves.code, 0, halves.stderr);
    const narrowed = JSON.parse(halves.stdout) as Record<string, number>[];
    deepEqual(narrowed.map(({ firstHalfRate, rate, tokens }) => [firstHalfRate, rate, tokens]), [
      [0, 0, 3 * 15],
      [0, 0.35, 3 * 15],
      [0.35, 0.35, 3 * 15],
    ]);

    const one = await run("evaluate", "--model", artefact, "--rate", "0.15", ...text);
    deepEqual(JSON.parse(one.stdout), [{ ...found[3], ratioToFirst: 1, ratioStandardError: 0 }]);
    const told = await run("evaluate", "--model", artefact, "--all-rates", ...text.slice(0, -1));
    match(
      told.stdout,
      /^rate 0\.00 {2}perplexity \d+\.\d{4} ± \d+\.\d{4} {2}over 93 tokens\nrate 0\.05 .*, \d\.\d{4} ± \d/,
    );
    const dense = JSON.parse((await run("evaluate", "--model", `${folder}/checkpoint`, ...text)).stdout);
    deepEqual([dense.length, dense[0].rate, dense[0].tokens], [1, 0, 3 * 31]);
    // Int4 is off by some percent.
    ok(Math.abs(Math.log(dense[0].perplexity / found[0]!["perplexity"]!)) < 0.2, `${dense[0].perplexity}`);
  });

  it("generate prints the same answer again, and another at another rate", async () => {
    const args = ["--model", artefact, "--prompt", "To be or not", "--max-new-tokens", "20"];
    const { code, stdout, stderr } = await run("generate", ...args);
    equal(code, 0, stderr);
    match(stdout, /^[ -~]{1,20}\n$/);
    equal((await run("generate", ...args, "--rate", "0")).stdout, stdout);
    ok((await run("generate", ...args, "--rate", "0.35")).stdout !== stdout);
  });

  it("export writes a model and its data", async () => {
    const { code, stderr } = await run(
      "export",
      "--model",
      artefact,
      "--out",
      `${folder}/narrow.onnx`,
      "--rate",
      "0.35",
    );
    equal(code, 0, stderr);
    for (const name of ["narrow.onnx", "narrow.onnx.data"]) ok((await Deno.stat(`${folder}/${name}`)).size > 1000);
  });

  it("bench prints what it measured as JSON", async () => {
    const prefills = ["--prefill-tokens", "8", "--prefill-context", "20"];
    const small = ["--rounds", "1", "--context", "4", ...prefills, "--threads", "1", "--json"];
    const { code, stdout, stderr } = await run("bench", "--model", artefact, ...small);
    equal(code, 0, stderr);
    const { model, rounds, levels, further } = JSON.parse(stdout);
    equal(further.behind, 20);
    ok(further.ms > 0);
    deepEqual([model, rounds], ["artefact", 1]);
    deepEqual(levels.map(({ pruningRate }: { pruningRate: number }) => pruningRate), PRUNING_RATES);
    ok(levels.every((level: Record<string, number>) => Object.values(level).every((value) => Number.isFinite(value))));
  });

  it("bench profiles prefills, also behind a context", async () => {
    const prefills = ["--prefill-tokens", "8", "--prefill-context", "20"];
    const small = ["--context", "4", ...prefills, "--threads", "1", "--profile"];
    const { code, stdout, stderr } = await run("bench", "--model", artefact, ...small);
    equal(code, 0, stderr);
    for (const runs of ["decode of 1", "decode of 8", "prefill of 8", "prefill of 8 behind 20"]) {
      ok(stdout.includes(`stock operators, ${runs}: `), stdout);
    }
    ok(stdout.includes("GroupQueryAttention"), stdout);
  });

  describe("refuse in words, and with 1,", () => {
    const text = () => ["--text", `${folder}/text.txt`];
    it("a rate that is not prepared", async () => {
      const said = /pruning rate 0\.12: prepared are 0, 0\.05, 0\.1, 0\.15, 0\.2, 0\.25, 0\.3, 0\.35/;
      await refused(said, "evaluate", "--model", artefact, ...text(), "--rate", "0.12");
      await refused(said, "generate", "--model", artefact, "--prompt", "a", "--rate", "0.12");
      await refused(said, "export", "--model", artefact, "--out", `${folder}/x.onnx`, "--rate", "0.12");
    });

    it("rates of a dense checkpoint", async () => {
      const args = ["--model", `${folder}/checkpoint`, ...text()];
      await refused(/it is a dense checkpoint/, "evaluate", ...args, "--all-rates");
      await refused(/it is a dense checkpoint/, "evaluate", ...args, "--narrow-to", "0.35");
    });

    it("a rate to narrow to that is no larger, or not prepared, before the model is opened", async () => {
      const args = ["--model", artefact, ...text(), "--rate", "0.2", "--narrow-to"];
      await refused(/^--narrow-to/, "evaluate", ...args, "0.1");
      await refused(/^Cannot run at pruning rate 0\.22/, "evaluate", ...args, "0.22");
    });

    it("one rate and all of them", () =>
      refused(/--all-rates and --rate/, "evaluate", "--model", artefact, ...text(), "--rate", "0.2", "--all-rates"));

    it("more tokens than the model holds", async () => {
      const said = /the model holds 256/;
      await refused(said, "generate", "--model", artefact, "--prompt", "a", "--max-new-tokens", "256");
      const long = ["--sequence-length", "257"];
      await refused(said, "evaluate", "--model", artefact, ...text(), ...long);
      await refused(said, "evaluate", "--model", `${folder}/checkpoint`, ...text(), ...long);
      await refused(said, "compress", "--model", `${folder}/checkpoint`, "--out", `${folder}/x`, ...long);
    });

    it("tokens that the model does not know", async () => {
      await writeTinyCheckpoint(`${folder}/small`, { ...TINY_LLAMA, vocabSize: 64 }, 1);
      const small = ["--model", `${folder}/small`, ...text(), "--sequence-length", "32"];
      await refused(/token \d\d of this text, the model knows 64/, "evaluate", ...small);

      const other = `${folder}/other-tokenizer`;
      await Deno.mkdir(other);
      for await (const { name } of Deno.readDir(artefact)) {
        await Deno.copyFile(`${artefact}/${name}`, `${other}/${name}`);
      }
      const manifest = decodeManifest(await Deno.readTextFile(`${other}/espalier.json`));
      const path = `${other}/tokenizer.json`;
      const tokenizer = JSON.parse(await Deno.readTextFile(path));
      tokenizer.model.vocab.b = 200;
      await Deno.writeTextFile(path, JSON.stringify(tokenizer));
      manifest.files["tokenizer.json"] = { bytes: (await Deno.stat(path)).size, sha256: await fileDigest(path) };
      await Deno.writeTextFile(`${other}/espalier.json`, encodeManifest(manifest));
      const said = /token 200 of this text, the model knows 96/;
      await refused(said, "generate", "--model", other, "--prompt", "ab");
      await refused(said, "evaluate", "--model", other, ...text(), "--sequence-length", "32");
    });

    it("an evaluation of nothing", async () => {
      const args = ["--model", artefact, ...text(), "--narrow-to", "0.35", "--sequence-length", "2"];
      await refused(/^--narrow-to: .* 2 tokens/, "evaluate", ...args);
    });

    it("a dense checkpoint on a CUDA device", () =>
      refused(/runs on the CPU/, "evaluate", "--model", `${folder}/checkpoint`, ...text(), "--device", "cuda"));

    it("a text too short for a window", () =>
      refused(
        /100 tokens into windows of 200/,
        "evaluate",
        "--model",
        artefact,
        ...text(),
        "--max-tokens",
        "100",
        "--sequence-length",
        "200",
      ));

    it("an architecture that is not supported, with those that are", async () => {
      const said = new RegExp(`MambaForCausalLM is not supported; supported are ${SUPPORTED_ARCHITECTURES.join(", ")}`);
      await refused(said, "compress", "--model", `${folder}/mamba`, "--out", `${folder}/x`);
      await refused(said, "evaluate", "--model", `${folder}/mamba`, ...text());
      equal(await Deno.stat(`${folder}/x.partial`).catch(() => null), null);
    });

    const models: readonly [string, RegExp][] = [
      ["nowhere", /nowhere/],
      ["empty", /empty/],
      ["text.txt", /text\.txt/],
      ["garbage.gguf", /garbage\.gguf/],
      ["no-json", /no-json.*config\.json/],
      ["no-object", /no-object.*config\.json/],
      ["no-architecture", /"architectures" must name one of/],
    ];
    for (const [name, said] of models) {
      it(`a model that is none: ${name}`, async () => {
        await refused(said, "evaluate", "--model", `${folder}/${name}`, ...text());
        await refused(said, "compress", "--model", `${folder}/${name}`, "--out", `${folder}/x`);
      });
    }

    for (const task of ["start", "generate", "export", "bench"] as const) {
      it(`${task}: what is no artefact`, async () => {
        const more = {
          start: ["--port", "0"],
          generate: ["--prompt", "a"],
          export: ["--out", `${folder}/x`],
          bench: [],
        };
        for (const name of ["nowhere", "empty", "text.txt", "checkpoint"]) {
          const said = new RegExp(`${name.replace(".", "\\.")} as an artefact: it has no readable espalier\\.json`);
          await refused(said, task, "--model", `${folder}/${name}`, ...more[task]);
        }
      });
    }

    it("a text that is none", async () => {
      await refused(/nowhere\.txt/, "evaluate", "--model", artefact, "--text", `${folder}/nowhere.txt`);
      await refused(/empty/, "evaluate", "--model", artefact, "--text", `${folder}/empty`);
    });

    it("recipes that are none", async () => {
      const args = ["--model", `${folder}/checkpoint`, "--out", `${folder}/x`, "--recipe"];
      await refused(/nowhere\.json/, "compress", ...args, `${folder}/nowhere.json`);
      await Deno.writeTextFile(`${folder}/recipe.json`, "{");
      await refused(/recipe\.json/, "compress", ...args, `${folder}/recipe.json`);
      await Deno.writeTextFile(`${folder}/recipe.json`, '{"ordr": "random", "quantizer": "best"}');
      await refused(/quantizer: (.|\n)*"ordr"/, "compress", ...args, `${folder}/recipe.json`);
    });

    it("a chat template that refuses every conversation, before any work", async () => {
      const model = `${folder}/template`;
      await writeTinyCheckpoint(model, TINY_LLAMA, 1);
      const args = ["--model", model, "--out", `${folder}/x`, "--samples", "6", ...calibrate];
      for (const chat_template of ["{{ bos_token + messages[0].content }}", "{% for %}"]) {
        await Deno.writeTextFile(`${model}/tokenizer_config.json`, JSON.stringify({ chat_template }));
        await refused(/^Cannot compress .*template: .*chat template/, "compress", ...args);
      }
      equal(await Deno.stat(`${folder}/x.partial`).catch(() => null), null);
    });

    it("a name that no artefact can have, before any work", async () => {
      const args = ["--model", `${folder}/checkpoint`, "--out", `${folder}/x`, "--samples", "6", ...calibrate];
      await refused(/name "my model"/, "compress", ...args, "--name", "my model");
      equal(await Deno.stat(`${folder}/x.partial`).catch(() => null), null);
    });

    it("an export to a folder that is not there, or over one", async () => {
      await refused(/nowhere/, "export", "--model", artefact, "--out", `${folder}/nowhere/x.onnx`);
      await refused(/--out: .*empty is a folder/, "export", "--model", artefact, "--out", `${folder}/empty`);
    });

    it("a policy that there is not, and a rate of one that is not prepared, before anything is opened", async () => {
      for (const policy of ["best", "fixed:", "fixed:most", "fixed:R", "predictive:", "constructor"]) {
        const { code, stderr } = await run("start", "--model", `${folder}/nowhere`, "--policy", policy);
        equal(code, 2);
        match(stderr, /^--policy: Expected one of fixed:R, predictive:R, queue-threshold, .*predictive$/m);
      }
      const said = /^Cannot start on [^\n]*: Pruning rate "0\.12" is not prepared; these are: 0, 0\.05/;
      await refused(said, "start", "--port", "0", "--model", artefact, "--policy", "fixed:0.12");
    });

    it("a bench of one rate where all are measured", () =>
      refused(
        /--rate and --bandwidth are for a CUDA device/,
        "bench",
        "--model",
        artefact,
        "--device",
        "cpu",
        "--rate",
        "0",
      ));
  });

  describe("compress, stopped half way,", () => {
    // Enough to measure that it is still at it when the signal comes.
    const size = ["--samples", "12", "--sequence-length", "240", "--threads", "1"];
    const args = (out: string) => ["--model", `${folder}/checkpoint`, "--out", out, ...size];
    let digest: string;

    beforeAll(async () => {
      const { code, stderr } = await run("compress", ...args(`${folder}/whole`));
      equal(code, 0, stderr);
      ({ digest } = await openArtefact(`${folder}/whole`));
    });

    it("by a file without room, names it, and the same command ends it", async () => {
      const out = `${folder}/no-room`;
      // A file may have 64 KiB: there is room for all but the weights.
      const [deno, ...own] = project.tasks.compress.split(" ");
      equal(deno, "deno");
      const { code, stderr } = await new Deno.Command("sh", {
        args: ["-c", `trap "" XFSZ; ulimit -f 128; exec "$@"`, "sh", Deno.execPath(), ...own, ...args(out)],
        cwd: fileURLToPath(new URL("..", import.meta.url)),
      }).output();
      const said = new TextDecoder().decode(stderr);
      match(
        said,
        new RegExp(`^${out}\\.partial/\\S+: File too large .*\\nOnce there is room, the same command goes on`, "m"),
      );
      equal(code, 1);
      const again = await run("compress", ...args(out));
      equal(again.code, 0, again.stderr);
      equal((await openArtefact(out)).digest, digest);
    });

    // At the start of quantization, and when all is written but nothing measured.
    for (const file of ["weights.safetensors", "espalier.json"]) {
      for (const signal of ["SIGKILL", "SIGINT"] as const) {
        it(`by ${signal} when ${file} appears, leaves no artefact, and the same command ends it`, async () => {
          const out = `${folder}/${signal}-${file}`;
          const child = command("compress", args(out));
          const end = ended(child);
          const early = end.then(({ stderr }) => Promise.reject(new Error(`It ended by itself: ${stderr}`)));
          await Promise.race([appears(`${out}.partial`, file), early]);
          child.kill(signal);
          const { code, stderr } = await end;
          if (signal === "SIGKILL") equal(code, 137);
          else {
            // On a slow machine it says how far it is, every ten seconds.
            const said = stderr.replaceAll(/^compress +\d+ % .*\n/gm, "");
            deepEqual([code, said], [1, "Stopped. The same command goes on where this one was.\n"]);
          }
          equal(await isArtefact(out), false);
          const again = await run("compress", ...args(out));
          equal(again.code, 0, again.stderr);
          equal((await openArtefact(out)).digest, digest);
          equal(await Deno.stat(`${out}.partial`).catch(() => null), null);
        });
      }
    }
  });
});

/** Waits until a folder that may not exist yet has a file of that name. */
async function appears(folder: string, file: string): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  using watcher = Deno.watchFs(folder);
  for await (const { paths } of watcher) if (paths.some((path) => basename(path) === file)) return;
}

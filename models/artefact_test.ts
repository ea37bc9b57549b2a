import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal, match, notDeepEqual, ok, rejects } from "node:assert/strict";
import { join } from "node:path";
import { TINY_LLAMA, TINY_MAMBA2 } from "../tests/support/tiny_models.ts";
import { fileDigest, MANIFEST_FILE, openArtefact, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE } from "./artefact.ts";
import { WEIGHTS_FILE } from "./artefact.ts";
import { decodeManifest, encodeManifest, type Manifest } from "./manifest.ts";
import { writeRandomArtefact } from "./random_artefact.ts";
import { RangeFile } from "./range_file.ts";
import { readSafetensorsHeader } from "./safetensors.ts";
import { layOutSafetensors, type SafetensorsEntry } from "./safetensors_writer.ts";
import { storedTensors } from "./stored_tensors.ts";
import { PRUNING_RATES } from "./widths.ts";

type Attention = Extract<Manifest["layers"][number][number], { kind: "attention" }>;
type GatedMlp = Extract<Manifest["layers"][number][number], { kind: "gatedMlp" }>;
interface StoredBytes extends SafetensorsEntry {
  readonly data: Uint8Array;
}

const attention = ({ layers }: Manifest) => layers[0]![0] as Attention;
const mlp = ({ layers }: Manifest) => layers[1]![1] as GatedMlp;

describe("openArtefact()", () => {
  let original: string;
  const copies: string[] = [];

  beforeAll(async () => {
    original = await Deno.makeTempDir();
    const tokenizer = { tokenizerJson: { model: { type: "BPE" } }, tokenizerConfig: {} };
    await writeRandomArtefact(original, { config: TINY_LLAMA, blockSize: 32, seed: 1, tokenizer });
  });
  afterAll(async () => {
    for (const folder of [original, ...copies]) await Deno.remove(folder, { recursive: true });
  });

  it("opens one that nobody touched", async () => {
    const artefact = await openArtefact(original);
    deepEqual(artefact.levels.map(({ pruningRate }) => pruningRate), PRUNING_RATES);
    deepEqual(artefact.plan.config, TINY_LLAMA);
    equal(artefact.digest, await fileDigest(join(original, WEIGHTS_FILE)));
    equal(artefact.weightBytes, (await Deno.stat(join(original, WEIGHTS_FILE))).size);
    deepEqual(artefact.tokenizer, { tokenizerJson: { model: { type: "BPE" } }, tokenizerConfig: {} });
    for (const { name } of storedTensors(artefact.plan, 32)) ok(artefact.locate(name).length > 0);
  });

  describe("refuses damage:", () => {
    for (const name of [MANIFEST_FILE, WEIGHTS_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE]) {
      const said = name === MANIFEST_FILE ? /no readable espalier\.json/ : new RegExp(`${name} is missing`);
      it(`${name} gone`, () => refused((folder) => Deno.remove(join(folder, name)), said));
    }

    it("no folder", () => rejects(openArtefact(join(original, "nowhere")), /no readable espalier\.json/));

    for (const name of [WEIGHTS_FILE, TOKENIZER_FILE]) {
      it(`${name} truncated by a byte`, () =>
        refused(async (folder) => {
          const path = join(folder, name);
          await Deno.truncate(path, (await Deno.stat(path)).size - 1);
        }, new RegExp(`${name} has \\d+ bytes, \\d+ are recorded`)));

      it(`one bit of ${name} flipped, wherever it is`, async () => {
        const { size } = await Deno.stat(join(original, name));
        for (const place of [0, 8, Math.floor(size / 2), size - 1]) {
          await refused((folder) => flipBit(join(folder, name), place), new RegExp(`${name} was changed`));
        }
      });
    }

    it("the manifest cut off anywhere", async () => {
      const { length } = await Deno.readTextFile(join(original, MANIFEST_FILE));
      for (const size of [0, 1, length >> 1, length - 2]) {
        await refused((folder) => Deno.truncate(join(folder, MANIFEST_FILE), size), /espalier\.json: it is not JSON/);
      }
    });

    it("one bit of the manifest flipped, wherever it is", async () => {
      const text = await Deno.readTextFile(join(original, MANIFEST_FILE));
      // The line's end means nothing.
      for (let place = 0; place < text.length - 1; place += 97) {
        await refused((folder) => flipBit(join(folder, MANIFEST_FILE), place), /Cannot read espalier\.json/);
      }
    });

    it("a number of the manifest changed to another good one", () =>
      refused(async (folder) => {
        const path = join(folder, MANIFEST_FILE);
        const text = await Deno.readTextFile(path);
        const changed = text.replace('"theta":10000', '"theta":10001');
        notDeepEqual(changed, text);
        await Deno.writeTextFile(path, changed);
      }, /its checksum is .*; it was changed/));

    it("a manifest of brackets without end", async () => {
      for (const depth of [10_000, 1_000_000]) {
        const text = `{"provenance":{"x":${"[".repeat(depth)}${"]".repeat(depth)}}}`;
        await refused((folder) => Deno.writeTextFile(join(folder, MANIFEST_FILE), text), /espalier\.json: .* too deep/);
      }
    });

    it("a manifest that is JSON of another kind", async () => {
      for (const [text, said] of [["null", /not an object/], ["[]", /format/], ["{}", /format: .*\n.*version: /s]]) {
        await refused((folder) => Deno.writeTextFile(join(folder, MANIFEST_FILE), text as string), said as RegExp);
      }
    });

    for (const name of [MANIFEST_FILE, WEIGHTS_FILE, TOKENIZER_FILE]) {
      it(`${name} as a symbolic link, even to the very file`, () =>
        refused(async (folder) => {
          await Deno.remove(join(folder, name));
          await Deno.symlink(join(original, name), join(folder, name));
        }, new RegExp(`${name} is not a plain file`)));

      it(`${name} as a folder`, () =>
        refused(async (folder) => {
          await Deno.remove(join(folder, name));
          await Deno.mkdir(join(folder, name));
        }, new RegExp(`${name} is not a plain file`)));
    }
  });

  describe("refuses a manifest with a right checksum that lies:", () => {
    const lies: readonly [string, (manifest: Manifest) => void, RegExp][] = [
      ["an unknown field", (m) => Object.assign(m, { extra: 1 }), /manifest: .*"extra"/],
      ["an unknown field deep inside", (m) => Object.assign(m.config, { ropeTheta: 1 }), /config: .*"ropeTheta"/],
      ["another version", (m) => Object.assign(m, { version: 2 }), /version: /],
      ["another format", (m) => Object.assign(m, { format: "gguf" }), /format: /],
      ["a name with a slash", (m) => m.name = "a/b", /name: /],
      ["3 bits", (m) => Object.assign(m.quantization, { bits: 3 }), /quantization\.bits: /],
      ["blocks of 48", (m) => Object.assign(m.quantization, { blockSize: 48 }), /quantization\.blockSize: /],
      ["no levels", (m) => m.levels = [], /levels: /],
      ["a first rate that is not 0", (m) => m.levels[0]!.pruningRate = 0.01, /levels: the first rate is 0\.01, not 0/],
      ["rates that descend", (m) => m.levels[3]!.pruningRate = 0.07, /levels: rate 0\.07 comes after 0\.1/],
      ["a rate twice", (m) => m.levels[4]!.pruningRate = 0.15, /levels: rate 0\.15 comes after 0\.15/],
      ["a rate of 1", (m) => m.levels[7]!.pruningRate = 1, /levels\.7\.pruningRate: /],
      ["a negative rate", (m) => m.levels[0]!.pruningRate = -0.1, /levels\.0\.pruningRate: /],
      ["a perplexity of 0", (m) => m.levels[0]!.perplexity = 0, /levels\.0\.perplexity: /],
      ["one level less than widths", (m) => m.levels.pop(), /layers\.0\.0\.widths: 8 for 7 levels/],
      ["one width less", (m) => mlp(m).widths.pop(), /layers\.1\.1\.widths: 7 for 8 levels/],
      ["one width more", (m) => mlp(m).widths.push(32), /layers\.1\.1\.widths: 9 for 8 levels/],
      ["a width that grows", (m) => mlp(m).widths[6] = 256, /widths 256.* must be positive and nested/],
      ["a width beyond the axis", (m) => mlp(m).widths[0] = 288, /layers\.1\.mlp .* start with 256/],
      ["a first width that is not all", (m) => attention(m).widths.fill(16), /layers\.0\.attention .* start with 32/],
      ["a width of 0", (m) => mlp(m).widths[7] = 0, /layers\.1\.1\.widths\.7: /],
      ["half a width", (m) => mlp(m).widths[7] = 0.5, /layers\.1\.1\.widths\.7: /],
      ["a head width that splits a pair", (m) => attention(m).widths[7] = 15, /layers\.0\.0\.widths: 15 .*of 8/],
      ["a head width that attention cannot run", (m) => attention(m).widths[7] = 12, /layers\.0\.0\.widths: 12 .*of 8/],
      ["a rotary pair twice", (m) => attention(m).pairs[1]![0] = attention(m).pairs[1]![1]!, /0\.pairs\.1: no perm/],
      [
        "a rotary pair beyond the head",
        (m) => attention(m).pairs[0]![3] = 16,
        /layers\.0\.0\.pairs\.0: no permutation/,
      ],
      ["a rotary pair less", (m) => attention(m).pairs[0]!.pop(), /layers\.0\.0\.pairs\.0: no permutation/],
      ["half a rotary pair", (m) => attention(m).pairs[0]![0] = 0.5, /layers\.0\.0\.pairs\.0\.0: /],
      ["pairs of one head less", (m) => attention(m).pairs.pop(), /layers\.0\.0\.pairs: 1 heads of 2/],
      ["a channel twice", (m) => mlp(m).channels[5] = mlp(m).channels[6]!, /layers\.1\.1\.channels: no permutation/],
      ["a channel beyond the MLP", (m) => mlp(m).channels[5] = 256, /layers\.1\.1\.channels: no permutation/],
      ["a negative channel", (m) => mlp(m).channels[5] = -1, /layers\.1\.1\.channels\.5: /],
      ["a layer less", (m) => m.layers.pop(), /layers: 1 are listed, the model has 2/],
      ["a layer more", (m) => m.layers.push(m.layers[0]!), /layers: 3 are listed, the model has 2/],
      ["a layer without its MLP", (m) => m.layers[0]!.pop(), /"layers\.0\.mlp\.norm" is not a tensor of this model/],
      [
        "attention twice in a layer",
        (m) => m.layers[0]![1] = m.layers[0]![0]!,
        /layers\.0: a kind of block twice \(attention, attention\)/,
      ],
      ["an unknown kind of block", (m) => Object.assign(m.layers[0]![0]!, { kind: "mamba3" }), /layers\.0\.0\.kind: /],
      ["a family that is no name", (m) => Object.assign(m.config, { family: "../llama" }), /config\.family: must be a/],
      ["a size of 0", (m) => m.config.vocabSize = 0, /config\.vocabSize: /],
      ["an infinite base", (m) => m.config.rope.theta = Infinity, /config\.rope\.theta: /],
      ["a base below 1", (m) => m.config.rope.theta = 5e-324, /config\.rope\.theta: /],
      [
        "positions that are drawn out by less than 1",
        (m) => m.config.rope.scaling = { kind: "linear", factor: 5e-324 },
        /config\.rope\.scaling\.factor: /,
      ],
      [
        "time steps in the wrong order",
        (m) => m.config.mamba = { ...TINY_MAMBA2.mamba!, timeStepLimit: [5, 1] },
        /config\.mamba\.timeStepLimit: the least is above the greatest/,
      ],
      ["a head size that is odd", (m) => m.config.headDim = 31, /config\.headDim: 31 is no multiple of 8/],
      [
        "key heads that do not divide",
        (m) => m.config.numKeyValueHeads = 3,
        /config\.numKeyValueHeads: 3 does not div/,
      ],
      ["an end token outside", (m) => m.config.eosTokenIds = [2, 96], /config\.eosTokenIds: 96 .* vocabulary of 96/],
      ["a first token outside", (m) => m.config.bosTokenId = 96, /config\.bosTokenId: 96 .* vocabulary of 96/],
      [
        "bands without a width",
        (m) =>
          m.config.rope.scaling = {
            kind: "llama3",
            factor: 8,
            lowFreqFactor: 4,
            highFreqFactor: 4,
            originalMaxPositionEmbeddings: 64,
          },
        /config\.rope\.scaling\.highFreqFactor: /,
      ],
      ["biases that the file lacks", (m) => attention(m).outputBias = true, /attention\.output\.0\.bias" is missing/],
      ["an untied head that it lacks", (m) => m.config.tieWordEmbeddings = false, /"head\.codes" is missing/],
      ["a rotation that it lacks", (m) => m.rotatedResidual = true, /"head_rotation\.codes" is missing/],
      ["a larger vocabulary", (m) => m.config.vocabSize = 97, /"embedding\.codes" is U8 \[96,2,16\], wanted U8 \[97,2/],
      [
        "another cut",
        (m) => mlp(m).widths[7] = 128,
        /layers\.1\.mlp\.gate_up\.0\.codes" is .*, wanted U8 \[256,2,16\]/,
      ],
      ["larger blocks", (m) => m.quantization.blockSize = 64, /"embedding\.codes" is .*, wanted U8 \[96,1,32\]/],
      ["no weights", (m) => void delete m.files[WEIGHTS_FILE], /weights\.safetensors is not listed/],
      ["an unknown file", (m) => m.files["extra.bin"] = m.files[WEIGHTS_FILE]!, /extra\.bin has no meaning here/],
      [
        "a file outside its folder",
        (m) => m.files["../outside.safetensors"] = m.files[WEIGHTS_FILE]!,
        /\.\.\/outside\.safetensors has no meaning here/,
      ],
      ["a digest that is none", (m) => m.files[WEIGHTS_FILE]!.sha256 = "12", /files\.weights.*sha256: /],
      ["another size", (m) => m.files[WEIGHTS_FILE]!.bytes++, /weights\.safetensors has \d+ bytes, \d+ are recorded/],
    ];
    for (const [lie, change, said] of lies) {
      it(lie, () =>
        refused(async (folder) => {
          const manifest = decodeManifest(await Deno.readTextFile(join(folder, MANIFEST_FILE)));
          change(manifest);
          await Deno.writeTextFile(join(folder, MANIFEST_FILE), encodeManifest(manifest));
        }, said));
    }

    it("names every lie, not the first one only", async () => {
      const folder = await copyOf(original);
      const manifest = decodeManifest(await Deno.readTextFile(join(folder, MANIFEST_FILE)));
      manifest.levels[2]!.pruningRate = 0;
      mlp(manifest).channels[0] = mlp(manifest).channels[1]!;
      manifest.config.eosTokenIds = [500];
      await Deno.writeTextFile(join(folder, MANIFEST_FILE), encodeManifest(manifest));
      await rejects(openArtefact(folder), ({ message }: Error) => {
        for (const said of [/rate 0 comes after/, /1\.channels: no/, /eosTokenIds: 500/]) match(message, said);
        return true;
      });
    });

    it("a tokenizer that is not JSON", () =>
      refused(async (folder) => {
        await Deno.writeTextFile(join(folder, TOKENIZER_FILE), "{");
        await renewDigests(folder);
      }, /tokenizer\.json is not JSON/));

    it("a tokenizer that is no object", () =>
      refused(async (folder) => {
        await Deno.writeTextFile(join(folder, TOKENIZER_FILE), "[]");
        await renewDigests(folder);
      }, /tokenizer\.json is not a JSON object/));
  });

  describe("refuses weights with a right digest that lie:", () => {
    const lies: readonly [string, (tensors: StoredBytes[]) => StoredBytes[], RegExp][] = [
      [
        "a tensor missing",
        (tensors) => tensors.filter(({ name }) => name !== "layers.1.mlp.down.0.scales"),
        /"layers\.1\.mlp\.down\.0\.scales" is missing/,
      ],
      [
        "a tensor too many",
        (tensors) => [...tensors, { name: "layers.2.norm", dtype: "F32", shape: [1], data: new Uint8Array(4) }],
        /"layers\.2\.norm" is not a tensor of this model/,
      ],
      [
        "a tensor of another shape",
        (tensors) => changed(tensors, "embedding.codes", (tensor) => ({ ...tensor, shape: [48, 4, 16] })),
        /"embedding\.codes" is U8 \[48,4,16\], wanted U8 \[96,2,16\]/,
      ],
      [
        "a tensor of another type",
        (tensors) => changed(tensors, "embedding.scales", (tensor) => ({ ...tensor, dtype: "BF16" })),
        /"embedding\.scales" is BF16 \[96,2\], wanted F16 \[96,2\]/,
      ],
      ...[["infinite", 0x7c00], ["negative infinite", 0xfc00], ["not a number", 0x7e00], ["a signalling NaN", 0x7c01]]
        .map(([kind, bits]): [string, (tensors: StoredBytes[]) => StoredBytes[], RegExp] => [
          `a scale that is ${kind}`,
          (tensors) => changed(tensors, "layers.0.mlp.down.0.scales", (tensor) => withBits(tensor, 2, bits as number)),
          /"layers\.0\.mlp\.down\.0\.scales" holds a number that is not finite/,
        ]),
      ...[["infinite", 0x7f800000], ["not a number", 0x7fc00000]]
        .map(([kind, bits]): [string, (tensors: StoredBytes[]) => StoredBytes[], RegExp] => [
          `a norm that is ${kind}`,
          (tensors) => changed(tensors, "final_norm", (tensor) => withBits(tensor, 4, bits as number)),
          /"final_norm" holds a number that is not finite/,
        ]),
    ];
    for (const [lie, change, said] of lies) {
      it(lie, () =>
        refused(async (folder) => {
          await writeTensors(folder, change(await readTensors(folder)));
          await renewDigests(folder);
        }, said));
    }

    it("nothing: the same tensors, written again, are opened", async () => {
      const folder = await copyOf(original);
      await writeTensors(folder, await readTensors(folder));
      await renewDigests(folder);
      equal((await openArtefact(folder)).name, "random");
    });

    it("tensors that are not aligned", () =>
      refused(async (folder) => {
        const path = join(folder, WEIGHTS_FILE);
        const bytes = await Deno.readFile(path);
        const headerBytes = Number(new DataView(bytes.buffer).getBigUint64(0, true));
        const moved = new Uint8Array(bytes.length + 8).fill(0x20);
        moved.set(bytes.subarray(0, 8 + headerBytes));
        moved.set(bytes.subarray(8 + headerBytes), 16 + headerBytes);
        new DataView(moved.buffer).setBigUint64(0, BigInt(headerBytes + 8), true);
        await Deno.writeFile(path, moved);
        await renewDigests(folder);
      }, /"embedding\.codes" starts at byte \d+, no multiple of 64/));

    it("a header that claims more than the file has", () =>
      refused(async (folder) => {
        const path = join(folder, WEIGHTS_FILE);
        const bytes = await Deno.readFile(path);
        new DataView(bytes.buffer).setBigUint64(0, BigInt(bytes.length), true);
        await Deno.writeFile(path, bytes);
        await renewDigests(folder);
      }, /its header claims \d+ bytes/));
  });

  /** Changes a copy, and sees that it is refused. */
  async function refused(change: (folder: string) => Promise<unknown>, said: RegExp): Promise<void> {
    const folder = await copyOf(original);
    await change(folder);
    await rejects(openArtefact(folder), (error: Error) => {
      ok(error instanceof SyntaxError, error.stack ?? "");
      match(error.message, said);
      return true;
    });
  }

  async function copyOf(folder: string): Promise<string> {
    const copy = await Deno.makeTempDir();
    copies.push(copy);
    for await (const { name } of Deno.readDir(folder)) await Deno.copyFile(join(folder, name), join(copy, name));
    return copy;
  }
});

async function flipBit(path: string, place: number): Promise<void> {
  const bytes = await Deno.readFile(path);
  bytes[place]! ^= 1;
  await Deno.writeFile(path, bytes);
}

/** Records the files as they are now. */
async function renewDigests(folder: string): Promise<void> {
  const path = join(folder, MANIFEST_FILE);
  const manifest = decodeManifest(await Deno.readTextFile(path));
  for (const name of Object.keys(manifest.files)) {
    const file = join(folder, name);
    manifest.files[name] = { bytes: (await Deno.stat(file)).size, sha256: await fileDigest(file) };
  }
  await Deno.writeTextFile(path, encodeManifest(manifest));
}

async function readTensors(folder: string): Promise<StoredBytes[]> {
  using file = await RangeFile.open(join(folder, WEIGHTS_FILE));
  const { tensors } = await readSafetensorsHeader(file);
  return await Promise.all([...tensors].map(async ([name, { dtype, shape, offset, bytes }]) => ({
    name,
    dtype: dtype as SafetensorsEntry["dtype"],
    shape,
    data: await file.read(offset, bytes),
  })));
}

async function writeTensors(folder: string, tensors: readonly StoredBytes[]): Promise<void> {
  const { header, places, fileBytes } = layOutSafetensors(tensors);
  const bytes = new Uint8Array(fileBytes);
  bytes.set(header);
  for (const { name, data } of tensors) bytes.set(data, places.get(name)!.offset);
  await Deno.writeFile(join(folder, WEIGHTS_FILE), bytes);
}

function changed(
  tensors: readonly StoredBytes[],
  name: string,
  change: (tensor: StoredBytes) => StoredBytes,
): StoredBytes[] {
  ok(tensors.some((tensor) => tensor.name === name), `there is no ${name}`);
  return tensors.map((tensor) => tensor.name === name ? change(tensor) : tensor);
}

/** The last number, `size` bytes of it, replaced. */
function withBits(tensor: StoredBytes, size: 2 | 4, bits: number): StoredBytes {
  const data = tensor.data.slice();
  const view = new DataView(data.buffer);
  if (size === 2) view.setUint16(data.length - 2, bits, true);
  else view.setUint32(data.length - 4, bits, true);
  return { ...tensor, data };
}

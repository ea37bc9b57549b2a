import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, rejects } from "node:assert/strict";
import { RangeFile } from "./range_file.ts";
import { readSafetensorsHeader, type SafetensorsHeader } from "./safetensors.ts";

/** Writes a file with this header (an object, or text as it stands) and that many bytes of data, and reads it. */
async function read(
  header: object | string,
  dataBytes: number,
  change: (file: Uint8Array<ArrayBuffer>) => Uint8Array<ArrayBuffer> = (file) => file,
): Promise<SafetensorsHeader> {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  const path = await Deno.makeTempFile({ suffix: ".safetensors" });
  try {
    await Deno.writeFile(path, change(bytes));
    using file = await RangeFile.open(path);
    return await readSafetensorsHeader(file);
  } finally {
    await Deno.remove(path);
  }
}

const f32 = (shape: number[], begin: number, end: number) => ({ dtype: "F32", shape, data_offsets: [begin, end] });
const SOUND = { a: f32([2, 3], 0, 24), b: f32([4], 24, 40) };

async function refuses(reading: Promise<unknown>, ...messages: RegExp[]): Promise<void> {
  await rejects(reading, (error) => {
    equal(error instanceof SyntaxError, true, String(error));
    for (const message of messages) equal(message.test(String(error)), true, `${error} does not match ${message}`);
    return true;
  });
}

describe("readSafetensorsHeader()", () => {
  it("finds tensors and metadata, with offsets from the start of the file", async () => {
    const { tensors, metadata } = await read({ __metadata__: { format: "pt" }, ...SOUND }, 40);
    const start = 8 + JSON.stringify({ __metadata__: { format: "pt" }, ...SOUND }).length;
    deepEqual([...tensors], [
      ["a", { dtype: "F32", shape: [2, 3], offset: start, bytes: 24 }],
      ["b", { dtype: "F32", shape: [4], offset: start + 24, bytes: 16 }],
    ]);
    deepEqual({ ...metadata }, { format: "pt" });
  });

  it("accepts spaces after the header, scalars, empty tensors, and entries in any order", async () => {
    const entries = { z: f32([], 16, 20), empty: f32([0, 5], 16, 16), a: f32([4], 0, 16) };
    const { tensors } = await read(JSON.stringify(entries) + "   ", 20);
    deepEqual([...tensors.keys()], ["a", "empty", "z"]);
  });

  it("refuses a file that was cut anywhere", async () => {
    await refuses(read(SOUND, 40, (file) => file.slice(0, 5)), /has 5 bytes/);
    await refuses(read(SOUND, 40, (file) => file.slice(0, 30)), /header claims \d+ bytes, but the file has only 30/);
    await refuses(read(SOUND, 40, (file) => file.slice(0, -1)), /"b" ends at byte \d+, but the file has only \d+/);
  });

  it("refuses a file with more than its tensors", async () => {
    await refuses(read(SOUND, 41), /last tensor ends at byte (\d+), and the file has \d+ bytes/);
  });

  it("refuses a header of an insane size", async () => {
    const insane = (file: Uint8Array<ArrayBuffer>) => (file.fill(0xff, 0, 8), file);
    await refuses(read(SOUND, 40, insane), /header claims 18446744073709551615 bytes; at most 100000000/);
  });

  it("refuses a header with a flipped bit in a bracket", async () => {
    await refuses(read(SOUND, 40, (file) => (file[8]! ^= 1, file)), /header is no JSON/);
  });

  it("refuses bytes that are not UTF-8, and JSON that is no object", async () => {
    await refuses(read(SOUND, 40, (file) => (file[10] = 0xff, file)), /header is no JSON/);
    await refuses(read("[1]", 0), /no JSON object/);
    await refuses(read("null", 0), /no JSON object/);
  });

  it("refuses a name that occurs twice", async () => {
    const entry = JSON.stringify(f32([1], 0, 4));
    await refuses(read(`{"a": ${entry}, "a": ${entry}}`, 4), /names "a" twice/);
  });

  it("names every entry that is wrong", async () => {
    const reading = read({
      sound: f32([1], 0, 4),
      short: f32([4], 4, 16),
      unknown: { dtype: "F8", shape: [1], data_offsets: [0, 1] },
      negative: f32([-1], 0, 4),
      backwards: f32([1], 8, 4),
      far: f32([1], 1000, 1004),
      shapeless: { dtype: "F32", data_offsets: [0, 4] },
    }, 40);
    await refuses(
      reading,
      /"short" spans 12 bytes \(4 to 16\), but F32 \[4\] takes 16/,
      /"unknown" has the unknown type F8/,
      /"negative" is malformed in shape/,
      /"backwards" spans -4 bytes/,
      /"far" ends at byte \d+, but the file has only/,
      /"shapeless" is malformed in shape/,
    );
  });

  it("refuses a shape whose size is beyond all numbers", async () => {
    await refuses(read({ a: f32([2 ** 40, 2 ** 40], 0, 4) }, 4), /"a" spans 4 bytes/);
  });

  it("refuses tensors that overlap, and bytes that belong to none", async () => {
    await refuses(read({ a: f32([4], 0, 16), b: f32([4], 12, 28) }, 28), /"b" overlaps "a" by 4 bytes/);
    await refuses(
      read({ a: f32([4], 0, 16), b: f32([4], 20, 36) }, 36),
      /4 bytes between "a" and "b" belong to no tensor/,
    );
    await refuses(read({ a: f32([4], 4, 20) }, 20), /4 bytes between the header and "a"/);
  });

  it("refuses metadata that is not made of strings", async () => {
    await refuses(read({ __metadata__: { epoch: 3 }, ...SOUND }, 40), /__metadata__ is not a map/);
  });
});

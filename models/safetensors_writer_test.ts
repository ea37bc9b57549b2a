import { describe, it } from "@std/testing/bdd";
import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { RangeFile } from "./range_file.ts";
import { readSafetensorsHeader } from "./safetensors.ts";
import { layOutSafetensors, type SafetensorsEntry, SafetensorsWriter, TENSOR_ALIGNMENT } from "./safetensors_writer.ts";

const ENTRIES: SafetensorsEntry[] = [
  { name: "codes", dtype: "U8", shape: [3, 5] },
  { name: "scales", dtype: "F16", shape: [32] },
  { name: "norm", dtype: "F32", shape: [7] },
  { name: "order", dtype: "I64", shape: [2] },
];
const DATA = {
  codes: Uint8Array.from({ length: 15 }, (_, i) => 200 + i),
  scales: Float16Array.from({ length: 32 }, (_, i) => i / 4),
  norm: Float32Array.from({ length: 7 }, (_, i) => -i),
  order: new BigInt64Array([-1n, 2n ** 40n]),
};

async function inTempFile(test: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile({ suffix: ".safetensors" });
  try {
    await test(path);
  } finally {
    await Deno.remove(path);
  }
}

async function readAll(path: string): Promise<Record<string, Uint8Array>> {
  using file = await RangeFile.open(path);
  const { tensors } = await readSafetensorsHeader(file);
  const read = async ([name, { offset, bytes }]: [string, { offset: number; bytes: number }]) =>
    [name, await file.read(offset, bytes)] as const;
  return Object.fromEntries(await Promise.all([...tensors].map(read)));
}

const bytesOf = (data: ArrayBufferView<ArrayBuffer>) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
const EXPECTED = Object.fromEntries(Object.entries(DATA).map(([name, data]) => [name, bytesOf(data)]));

describe("layOutSafetensors()", () => {
  it("starts every tensor at an aligned byte, and ends the file at one", () => {
    const { places, fileBytes, header } = layOutSafetensors(ENTRIES);
    deepEqual([...places.keys()], ENTRIES.map(({ name }) => name));
    for (const { offset } of places.values()) equal(offset % TENSOR_ALIGNMENT, 0);
    equal(fileBytes, header.length + 4 * TENSOR_ALIGNMENT);
  });

  it("names every entry that it cannot lay out", () => {
    const entries: SafetensorsEntry[] = [
      ...ENTRIES,
      { name: "norm", dtype: "F32", shape: [1] },
      { name: "__pad_0", dtype: "U8", shape: [1] },
      { name: "half", dtype: "U8", shape: [0.5] },
    ];
    throws(() => layOutSafetensors(entries), {
      name: "RangeError",
      message: /"norm" is announced twice\n.*"__pad_0" is a reserved name\n.*"half" has the shape \[0\.5\]/,
    });
  });
});

describe("SafetensorsWriter", () => {
  it("writes a file that reads back, whatever the order of writing", () =>
    inTempFile(async (path) => {
      using writer = await SafetensorsWriter.create(path, ENTRIES, { made: "here" });
      for (const name of ["order", "codes", "norm", "scales"] as const) await writer.write(name, DATA[name]);
      await writer.finish();
      deepEqual(await readAll(path), EXPECTED);
      using file = await RangeFile.open(path);
      deepEqual({ ...(await readSafetensorsHeader(file)).metadata }, { made: "here" });
    }));

  it("takes writes that overlap in time", () =>
    inTempFile(async (path) => {
      using writer = await SafetensorsWriter.create(path, ENTRIES);
      await Promise.all(Object.entries(DATA).map(([name, data]) => writer.write(name, data)));
      await writer.finish();
      deepEqual(await readAll(path), EXPECTED);
    }));

  it("resumes an interrupted file and keeps what was written", () =>
    inTempFile(async (path) => {
      using second = await SafetensorsWriter.resume(path, ENTRIES, await begun(path));
      deepEqual([...second.missing], ["codes", "scales", "order"]);
      for (const name of ["codes", "scales", "order"] as const) await second.write(name, DATA[name]);
      await second.finish();
      deepEqual(await readAll(path), EXPECTED);
    }));

  it("does not resume a file of other tensors", () =>
    inTempFile(async (path) => {
      (await SafetensorsWriter.create(path, ENTRIES)).close();
      const renamed = ENTRIES.map((entry) => entry.name === "norm" ? { ...entry, name: "mean" } : entry);
      await rejects(SafetensorsWriter.resume(path, renamed, new Map()), {
        name: "RangeError",
        message: /announces other tensors/,
      });
      await rejects(SafetensorsWriter.resume(path, ENTRIES.slice(1), new Map()), {
        name: "RangeError",
        message: /has \d+ bytes/,
      });
    }));

  it("does not resume a file that lost a bit of what was written", () =>
    inTempFile(async (path) => {
      const written = await begun(path);
      const bytes = await Deno.readFile(path);
      bytes[layOutSafetensors(ENTRIES).places.get("norm")!.offset + 9]! ^= 1;
      await Deno.writeFile(path, bytes);
      await rejects(SafetensorsWriter.resume(path, ENTRIES, written), {
        name: "RangeError",
        message: /"norm" is not as it was written/,
      });
    }));

  it("refuses data that was not announced, or is of another size", () =>
    inTempFile(async (path) => {
      using writer = await SafetensorsWriter.create(path, ENTRIES);
      await rejects(writer.write("bias", DATA.norm), { name: "RangeError", message: /"bias".*not announced/ });
      await rejects(writer.write("norm", DATA.codes), {
        name: "RangeError",
        message: /15 bytes were given, 28 announced/,
      });
    }));

  it("says which file the system refuses", () =>
    inTempFile(async (path) => {
      // What a device cannot do with a file: be as long as is wanted.
      await Deno.symlink("/dev/full", `${path}.link`);
      const message = new RegExp(`^${path}\\.link: Invalid argument`);
      await rejects(SafetensorsWriter.create(`${path}.link`, ENTRIES), { code: "EINVAL", message });
    }));

  it("does not finish before every tensor is written", () =>
    inTempFile(async (path) => {
      using writer = await SafetensorsWriter.create(path, ENTRIES);
      await writer.write("codes", DATA.codes);
      await rejects(writer.finish(), { name: "RangeError", message: /not written are scales, norm, order$/ });
      ok(writer.missing.has("norm"));
    }));
});

/** Writes one tensor and leaves it at that. */
async function begun(path: string): Promise<ReadonlyMap<string, number>> {
  using writer = await SafetensorsWriter.create(path, ENTRIES);
  await writer.write("norm", DATA.norm);
  await writer.sync();
  return writer.written;
}

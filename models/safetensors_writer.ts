import { crc32 } from "node:zlib";
import { namingFile } from "./naming_file.ts";
import { PADDING_PREFIX, SAFETENSORS_DTYPES, type SafetensorsDtype } from "./safetensors.ts";

/** Every tensor starts at a multiple of this many bytes in the file, so that a mapped one can be used in place. */
export const TENSOR_ALIGNMENT = 64;

/** What a tensor will be, announced before any data. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: Extract<SafetensorsDtype, "U8" | "F16" | "BF16" | "F32" | "I32" | "I64">;
  readonly shape: readonly number[];
}

interface Place {
  /** From the start of the file, in bytes. */
  readonly offset: number;
  readonly bytes: number;
}

/** The file to be: its header, where each tensor goes, and how long it all is. */
export interface SafetensorsLayout {
  readonly header: Uint8Array<ArrayBuffer>;
  readonly places: ReadonlyMap<string, Place>;
  readonly fileBytes: number;
}

/**
 * Lays out a safetensors file in which every tensor is aligned.
 *
 * The format allows no holes between tensors. So the header is padded with spaces up to a multiple of
 * {@linkcode TENSOR_ALIGNMENT}, and a tensor that ends elsewhere is followed by a small U8 tensor `__pad_0`, `__pad_1`,
 * …, which the header names like any other: every reader of the format takes the file.
 *
 * @throws {RangeError} If a name occurs twice or is reserved, or a size is not a whole number; it lists every offender.
 */
export function layOutSafetensors(
  entries: readonly SafetensorsEntry[],
  metadata: Readonly<Record<string, string>> = {},
): SafetensorsLayout {
  const problems: string[] = [];
  const header: Record<string, unknown> = { __metadata__: metadata };
  const relative = new Map<string, Place>();
  let end = 0;
  let paddings = 0;
  const add = (name: string, dtype: SafetensorsDtype, shape: readonly number[], bytes: number) => {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes] };
    end += bytes;
  };
  for (const { name, dtype, shape } of entries) {
    if (relative.has(name)) problems.push(`"${name}" is announced twice`);
    if (name.startsWith(PADDING_PREFIX) || name === "__metadata__" || name === "__proto__") {
      problems.push(`"${name}" is a reserved name`);
    }
    const bytes = shape.reduce((product, size) => product * size, SAFETENSORS_DTYPES[dtype]);
    if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0) || !Number.isSafeInteger(bytes)) {
      problems.push(`"${name}" has the shape [${shape.join(", ")}]`);
      continue;
    }
    relative.set(name, { offset: end, bytes });
    add(name, dtype, shape, bytes);
    const gap = paddingAfter(end);
    if (gap > 0) add(`${PADDING_PREFIX}${paddings++}`, "U8", [gap], gap);
  }
  if (problems.length > 0) throw new RangeError(`Cannot lay out a safetensors file:\n  ${problems.join("\n  ")}`);

  const json = new TextEncoder().encode(JSON.stringify(header));
  const jsonBytes = json.length + paddingAfter(8 + json.length);
  const start = new Uint8Array(8 + jsonBytes).fill(0x20);
  new DataView(start.buffer).setBigUint64(0, BigInt(jsonBytes), true);
  start.set(json, 8);
  return {
    header: start,
    places: new Map([...relative].map(([name, { offset, bytes }]) => [name, { offset: start.length + offset, bytes }])),
    fileBytes: start.length + end,
  };
}

/** Bytes from `end` up to the next aligned one. */
function paddingAfter(end: number): number {
  return (TENSOR_ALIGNMENT - end % TENSOR_ALIGNMENT) % TENSOR_ALIGNMENT;
}

/**
 * Writes a safetensors file tensor by tensor, in any order, each at the offset that {@linkcode layOutSafetensors} gave
 * it. A file left behind by an interrupted run can be taken up again with {@linkcode SafetensorsWriter.resume}.
 */
export class SafetensorsWriter implements Disposable {
  readonly path: string;
  readonly layout: SafetensorsLayout;
  readonly #file: Deno.FsFile;
  readonly #missing: Set<string>;
  readonly #written = new Map<string, number>();
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(path: string, file: Deno.FsFile, layout: SafetensorsLayout) {
    this.path = path;
    this.layout = layout;
    this.#file = file;
    this.#missing = new Set(layout.places.keys());
  }

  /** Starts a file, in place of any that is there. */
  static async create(
    path: string,
    entries: readonly SafetensorsEntry[],
    metadata: Readonly<Record<string, string>> = {},
  ): Promise<SafetensorsWriter> {
    const layout = layOutSafetensors(entries, metadata);
    const file = await Deno.open(path, { read: true, write: true, create: true, truncate: true });
    const writer = new SafetensorsWriter(path, file, layout);
    try {
      await namingFile(path, () => file.truncate(layout.fileBytes));
      await namingFile(path, () => writeAll(file, layout.header, 0));
    } catch (error) {
      writer.close();
      throw error;
    }
    return writer;
  }

  /**
   * Takes up a file that {@linkcode SafetensorsWriter.create} started with the same entries and metadata.
   *
   * @param written Tensors that are known to have been written and synced, as `written` had them.
   * @throws {RangeError} If the file is another, its size or its header differs, or if it lost one of those tensors.
   */
  static async resume(
    path: string,
    entries: readonly SafetensorsEntry[],
    written: ReadonlyMap<string, number>,
    metadata: Readonly<Record<string, string>> = {},
  ): Promise<SafetensorsWriter> {
    const layout = layOutSafetensors(entries, metadata);
    const file = await Deno.open(path, { read: true, write: true });
    const writer = new SafetensorsWriter(path, file, layout);
    try {
      const { size } = await file.stat();
      if (size !== layout.fileBytes) {
        throw new RangeError(`Cannot resume ${path}: it has ${size} bytes, and these tensors take ${layout.fileBytes}`);
      }
      const read = (place: Place) => namingFile(path, () => readAll(file, place));
      const header = await read({ offset: 0, bytes: layout.header.length });
      if (!header.every((byte, i) => byte === layout.header[i])) {
        throw new RangeError(`Cannot resume ${path}: its header announces other tensors`);
      }
      for (const [name, checksum] of written) {
        const place = layout.places.get(name);
        if (place === undefined || crc32(await read(place)) !== checksum) {
          throw new RangeError(`Cannot resume ${path}: "${name}" is not as it was written`);
        }
        writer.#noteWritten(name, checksum);
      }
    } catch (error) {
      writer.close();
      throw error;
    }
    return writer;
  }

  /** Names of the tensors that still have to be written. */
  get missing(): ReadonlySet<string> {
    return this.#missing;
  }

  /** CRC-32 of each tensor that has been written. */
  get written(): ReadonlyMap<string, number> {
    return this.#written;
  }

  /**
   * Writes one whole tensor.
   *
   * @param data Its elements, row-major, in the announced type; any view of the right number of bytes.
   * @throws {RangeError} If no such tensor was announced, or the data has another size.
   */
  async write(name: string, data: ArrayBufferView<ArrayBuffer>): Promise<void> {
    const place = this.layout.places.get(name);
    if (place === undefined) throw new RangeError(`Cannot write "${name}" to ${this.path}: it was not announced`);
    if (data.byteLength !== place.bytes) {
      throw new RangeError(
        `Cannot write "${name}" to ${this.path}: ${data.byteLength} bytes were given, ${place.bytes} announced`,
      );
    }
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const result = this.#last.then(() => namingFile(this.path, () => writeAll(this.#file, bytes, place.offset)));
    this.#last = result.catch(() => {});
    await result;
    this.#noteWritten(name, crc32(bytes));
  }

  #noteWritten(name: string, checksum: number): void {
    this.#missing.delete(name);
    this.#written.set(name, checksum);
  }

  /** Waits until all that was written is on the disk; only then may a record say that it is. */
  async sync(): Promise<void> {
    await this.#last;
    await namingFile(this.path, () => this.#file.syncData());
  }

  /**
   * Syncs and closes the file.
   *
   * @throws {RangeError} If a tensor has not been written; the file stays open, and the message names them all.
   */
  async finish(): Promise<void> {
    if (this.#missing.size > 0) {
      throw new RangeError(`Cannot finish ${this.path}: not written are ${[...this.#missing].join(", ")}`);
    }
    await this.sync();
    this.close();
  }

  /** Closes the file as it is. Closing again does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array, offset: number): Promise<void> {
  await file.seek(offset, Deno.SeekMode.Start);
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
}

async function readAll(file: Deno.FsFile, { offset, bytes }: Place): Promise<Uint8Array<ArrayBuffer>> {
  await file.seek(offset, Deno.SeekMode.Start);
  const all = new Uint8Array(bytes);
  for (let filled = 0; filled < bytes;) filled += await file.read(all.subarray(filled)) ?? Infinity;
  return all;
}

import { findDuplicateKey } from "./duplicate_key.ts";
import type { RangeFile } from "./range_file.ts";
import { z } from "zod";

/** Bytes per element of every type that a safetensors file may name, as far as they fill whole bytes. */
export const SAFETENSORS_DTYPES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const;

export type SafetensorsDtype = keyof typeof SAFETENSORS_DTYPES;

/** Where a tensor lies in its file. */
export interface SafetensorsTensor {
  readonly dtype: SafetensorsDtype;
  /** Outermost axis first; row-major, little-endian. */
  readonly shape: readonly number[];
  /** Of its first byte, from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

export interface SafetensorsHeader {
  /** In the order of their offsets; without padding. */
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** Names of the tensors that only fill the gap up to the next aligned one (see `SafetensorsWriter`). */
export const PADDING_PREFIX = "__pad_";

/** The format's own limit on the header, in bytes. */
const MAX_HEADER_BYTES = 100_000_000;

const Size = z.int().nonnegative();
const Entry = z.strictObject({ dtype: z.string(), shape: z.array(Size), data_offsets: z.tuple([Size, Size]) });
const Metadata = z.record(z.string(), z.string());

/**
 * Reads the header of a safetensors file and checks it whole against the file's real size: lengths, types, shapes
 * against byte ranges, ranges inside the file that neither overlap nor leave holes, names that occur once.
 *
 * @throws {SyntaxError} If the header is none; the message says all that is wrong with it.
 */
export async function readSafetensorsHeader(file: RangeFile): Promise<SafetensorsHeader> {
  const cannot = `Cannot read ${file.path} as safetensors`;
  if (file.size < 8) {
    throw new SyntaxError(`${cannot}: it has ${file.size} bytes, and the header's length alone takes 8`);
  }
  const length = new DataView((await file.read(0, 8)).buffer).getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw new SyntaxError(`${cannot}: its header claims ${length} bytes; at most ${MAX_HEADER_BYTES} are allowed`);
  }
  const headerBytes = Number(length);
  if (8 + headerBytes > file.size) {
    throw new SyntaxError(`${cannot}: its header claims ${headerBytes} bytes, but the file has only ${file.size}`);
  }

  let json: string;
  let header: unknown;
  try {
    json = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await file.read(8, headerBytes));
    header = JSON.parse(json);
  } catch (error) {
    throw new SyntaxError(`${cannot}: its header is no JSON (${error instanceof Error ? error.message : error})`);
  }
  if (header === null || typeof header !== "object" || Array.isArray(header)) {
    throw new SyntaxError(`${cannot}: its header is no JSON object`);
  }
  const duplicate = findDuplicateKey(json);
  if (duplicate !== null) throw new SyntaxError(`${cannot}: its header names "${duplicate}" twice`);

  const { __metadata__ = {}, ...entries } = header as Record<string, unknown>;
  const problems: string[] = [];
  const metadata = Metadata.safeParse(__metadata__);
  if (!metadata.success) problems.push("__metadata__ is not a map from strings to strings");

  const dataStart = 8 + headerBytes;
  const found: [string, SafetensorsTensor][] = [];
  for (const [name, raw] of Object.entries(entries)) {
    const tensor = parseEntry(raw, dataStart, file.size);
    if (typeof tensor === "string") problems.push(`"${name}" ${tensor}`);
    else found.push([name, tensor]);
  }
  found.sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes);

  // Only a header whose every entry is sound can say where the holes are.
  if (problems.length === 0) {
    let end = dataStart;
    let before = "the header";
    for (const [name, { offset, bytes }] of found) {
      if (offset < end) problems.push(`"${name}" overlaps ${before} by ${end - offset} bytes`);
      if (offset > end) problems.push(`${offset - end} bytes between ${before} and "${name}" belong to no tensor`);
      end = offset + bytes;
      before = `"${name}"`;
    }
    if (end !== file.size) {
      problems.push(`the last tensor ends at byte ${end}, and the file has ${file.size} bytes`);
    }
  }
  if (problems.length > 0) throw new SyntaxError(`${cannot}:\n  ${problems.join("\n  ")}`);

  return {
    tensors: new Map(found.filter(([name]) => !name.startsWith(PADDING_PREFIX))),
    metadata: metadata.data!,
  };
}

/** Returns the entry as a tensor, or what is wrong with it. */
function parseEntry(raw: unknown, dataStart: number, fileSize: number): SafetensorsTensor | string {
  const entry = Entry.safeParse(raw);
  if (!entry.success) {
    const fields = new Set(entry.error.issues.map(({ path }) => path[0] ?? "the entry"));
    return `is malformed in ${[...fields].join(", ")}`;
  }
  const { dtype, shape, data_offsets: [begin, end] } = entry.data;
  if (!isSafetensorsDtype(dtype)) return `has the unknown type ${dtype}`;
  const bytes = shape.reduce((product, size) => product * size, SAFETENSORS_DTYPES[dtype]);
  if (end - begin !== bytes) {
    return `spans ${end - begin} bytes (${begin} to ${end}), but ${dtype} [${shape.join(", ")}] takes ${bytes}`;
  }
  if (dataStart + end > fileSize) return `ends at byte ${dataStart + end}, but the file has only ${fileSize}`;
  return { dtype, shape, offset: dataStart + begin, bytes };
}

function isSafetensorsDtype(dtype: string): dtype is SafetensorsDtype {
  return Object.hasOwn(SAFETENSORS_DTYPES, dtype);
}

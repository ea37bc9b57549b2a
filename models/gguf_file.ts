import { Buffer } from "node:buffer";
import { GGUF_QUANTIZATIONS, type GgufQuantization, ggufTypeName } from "./gguf_quantization.ts";
import { RangeFile } from "./range_file.ts";
import { gguf, type GGUFTypedMetadata, GGUFValueType, type MetadataValue } from "@huggingface/gguf";

/** A tensor as the GGUF file has it. */
export interface GgufTensor {
  readonly quantization: GgufQuantization;
  /** Outermost axis first, as everywhere else; the file has them reversed. */
  readonly shape: readonly number[];
  /** Of its first byte, from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** An open GGUF file, under its own names. */
export interface GgufFile {
  readonly file: RangeFile;
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** Bytes before the first metadata entry: magic, version, number of tensors, number of entries. */
const FIXED_HEADER_BYTES = 24;

/**
 * Opens a GGUF file and checks its header whole against the file's real size: types that we read, shapes that are whole
 * blocks, ranges inside the file that do not overlap, names that occur once.
 *
 * @throws {SyntaxError} If the header is none; the message says all that is wrong with it.
 * @throws {RangeError} If tensors have types that we do not read; it names them and lists those that we do.
 */
export async function openGgufFile(path: string): Promise<GgufFile> {
  const file = await RangeFile.open(path);
  try {
    return await readHeader(file);
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Reads one whole tensor as float32, row-major. */
export async function readGgufTensor({ file }: GgufFile, tensor: GgufTensor): Promise<Float32Array<ArrayBuffer>> {
  const out = new Float32Array(tensor.bytes / tensor.quantization.blockBytes * tensor.quantization.blockSize);
  tensor.quantization.dequantize(await file.read(tensor.offset, tensor.bytes), out);
  return out;
}

async function readHeader(file: RangeFile): Promise<GgufFile> {
  const cannot = `Cannot read ${file.path} as GGUF`;
  if (file.size < FIXED_HEADER_BYTES) {
    throw new SyntaxError(`${cannot}: it has ${file.size} bytes, and the header takes at least ${FIXED_HEADER_BYTES}`);
  }
  const parsed = await gguf(file.path, { allowLocalFile: true, typedMetadata: true }).catch((error) => {
    throw new SyntaxError(`${cannot}: ${error instanceof Error ? error.message : error}`);
  });
  // The parser reads zeros where the file has ended.
  const headerEnd = parsed.tensorInfoByteRange[1];
  if (headerEnd > file.size) {
    throw new SyntaxError(`${cannot}: its header goes on to byte ${headerEnd}, but the file has only ${file.size}`);
  }
  if (!parsed.littleEndian || parsed.metadata.version === 1) {
    throw new SyntaxError(`${cannot}: only little-endian files of version 2 and 3 are supported`);
  }
  const metadata = await rereadStrings(file, parsed.typedMetadata, parsed.tensorInfoByteRange[0]).catch((error) => {
    throw new SyntaxError(`${cannot}: ${error instanceof Error ? error.message : error}`);
  });
  const alignment = Number(metadata.get("general.alignment") ?? 32);
  if (alignment % 8 !== 0 || !Number.isInteger(Math.log2(alignment))) {
    throw new SyntaxError(`${cannot}: its alignment is ${alignment}; wanted a power of two from 8 on`);
  }

  const problems: string[] = [];
  const unsupported: string[] = [];
  const tensors = new Map<string, GgufTensor>();
  for (const { name, shape: reversed, dtype, offset: relative } of parsed.tensorInfos) {
    if (tensors.has(name)) problems.push(`"${name}" occurs twice`);
    const quantization = GGUF_QUANTIZATIONS.get(dtype);
    if (quantization === undefined) {
      unsupported.push(`"${name}" is ${ggufTypeName(dtype)}`);
      continue;
    }
    const shape = reversed.map(Number).reverse();
    const blocksPerRow = (shape.at(-1) ?? 1) / quantization.blockSize;
    const bytes = shape.slice(0, -1).reduce((product, size) => product * size, blocksPerRow * quantization.blockBytes);
    const offset = Number(parsed.tensorDataOffset + relative);
    if (!Number.isInteger(blocksPerRow)) {
      problems.push(
        `"${name}" has rows of ${shape.at(-1)}, and ${quantization.name} has blocks of ${quantization.blockSize}`,
      );
    } else if (relative % BigInt(alignment) !== 0n) {
      problems.push(`"${name}" starts at ${relative}, which is not aligned to ${alignment}`);
    } else if (offset + bytes > file.size) {
      problems.push(`"${name}" ends at byte ${offset + bytes}, but the file has only ${file.size}`);
    }
    tensors.set(name, { quantization, shape, offset, bytes });
  }
  if (problems.length === 0) problems.push(...overlaps(tensors));
  if (problems.length > 0) throw new SyntaxError(`${cannot}:\n  ${problems.join("\n  ")}`);
  if (unsupported.length > 0) {
    const supported = [...GGUF_QUANTIZATIONS.values()].map(({ name }) => name).join(", ");
    throw new RangeError(`${cannot}; supported types are ${supported}:\n  ${unsupported.join("\n  ")}`);
  }
  return { file, metadata, tensors };
}

function overlaps(tensors: ReadonlyMap<string, GgufTensor>): string[] {
  const sorted = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes);
  return sorted.flatMap(([name, { offset }], index) => {
    const before = sorted[index - 1];
    const overlap = before === undefined ? 0 : before[1].offset + before[1].bytes - offset;
    return overlap > 0 ? [`"${name}" overlaps "${before![0]}" by ${overlap} bytes`] : [];
  });
}

/**
 * Reads all strings of the metadata again, from the file itself, and checks that the entries add up.
 *
 * The parser loads 2 MB at a time, and cuts a string short without a word where it goes beyond what is loaded, if it is
 * the last of its array (a number there makes it load more). It also drops the byte order mark with which some tokens
 * begin. Lengths and offsets it gets right.
 *
 * @param end Where the entries end, by the parser's count, in bytes from the start of the file.
 */
async function rereadStrings(
  file: RangeFile,
  typed: GGUFTypedMetadata,
  end: number,
): Promise<Map<string, MetadataValue>> {
  const bytes = await file.read(0, end);
  const view = new DataView(bytes.buffer);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const metadata = new Map<string, MetadataValue>();
  let offset = FIXED_HEADER_BYTES;
  const nextString = (): string => {
    const start = offset + 8;
    offset = start + Number(view.getBigUint64(offset, true));
    return decoder.decode(bytes.subarray(start, offset));
  };
  for (const [key, entry] of Object.entries(typed) as [string, TypedValue][]) {
    // The parser lists the fixed header's fields first, under these names.
    if (key === "version" || key === "tensor_count" || key === "kv_count") continue;
    offset += 8 + Buffer.byteLength(key) + 4;
    if (entry.type === GGUFValueType.STRING) {
      metadata.set(key, nextString());
    } else if (entry.type === GGUFValueType.ARRAY) {
      if (entry.subType === GGUFValueType.ARRAY) throw new SyntaxError(`"${key}" is an array of arrays`);
      const items = entry.value as MetadataValue[];
      offset += 12;
      if (entry.subType === GGUFValueType.STRING) {
        metadata.set(key, items.map(nextString));
      } else {
        metadata.set(key, items);
        offset += items.length * NUMBER_BYTES[entry.subType!];
      }
    } else {
      metadata.set(key, entry.value);
      offset += NUMBER_BYTES[entry.type];
    }
  }
  if (offset !== end) {
    throw new SyntaxError(
      `its metadata takes ${offset} bytes by its entries and ${end} by their end; is a key there twice?`,
    );
  }
  return metadata;
}

interface TypedValue {
  readonly value: MetadataValue;
  readonly type: GGUFValueType;
  readonly subType?: GGUFValueType;
}

/** Bytes of a number in the metadata. */
const NUMBER_BYTES: Readonly<Record<Exclude<GGUFValueType, GGUFValueType.STRING | GGUFValueType.ARRAY>, number>> = {
  [GGUFValueType.UINT8]: 1,
  [GGUFValueType.INT8]: 1,
  [GGUFValueType.BOOL]: 1,
  [GGUFValueType.UINT16]: 2,
  [GGUFValueType.INT16]: 2,
  [GGUFValueType.UINT32]: 4,
  [GGUFValueType.INT32]: 4,
  [GGUFValueType.FLOAT32]: 4,
  [GGUFValueType.UINT64]: 8,
  [GGUFValueType.INT64]: 8,
  [GGUFValueType.FLOAT64]: 8,
};

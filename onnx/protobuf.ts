/**
 * Encodes ONNX models without a protobuf library.
 *
 * An .onnx file is a plain protocol buffer. Writing one needs three wire types: variable-length integers (0),
 * length-delimited bytes (2) and 32-bit numbers (5). The first argument of `integer()`, `text()` and `bytes()` below is
 * a field number of onnx.proto.
 */

import type { Attribute, Initializer, Model, Node, ValueInfo } from "./model.ts";

/** ONNX's file format version that operator sets 21 and later ask for. */
const IR_VERSION = 10;

/** Encodes a model as the bytes of an .onnx file. */
export function encodeModel(model: Model): Uint8Array<ArrayBuffer> {
  const graph = concat([
    ...model.nodes.map((node, index) => bytes(1, encodeNode(node, index))),
    text(2, "espalier"),
    ...model.initializers.map((initializer) => bytes(5, encodeInitializer(initializer))),
    ...model.inputs.map((input) => bytes(11, encodeValueInfo(input))),
    ...model.outputs.map((output) => bytes(12, encodeValueInfo(output))),
  ]);
  return concat([
    integer(1, IR_VERSION),
    text(2, "espalier"),
    integer(5, 1),
    bytes(7, graph),
    ...Object.entries(model.opsets).map(([domain, version]) =>
      bytes(8, concat([text(1, domain), integer(2, version)]))
    ),
    ...Object.entries(model.metadata).map(([key, value]) => bytes(14, pair(key, value))),
  ]);
}

function encodeNode(node: Node, index: number): Uint8Array {
  return concat([
    ...node.inputs.map((name) => text(1, name)),
    ...node.outputs.map((name) => text(2, name)),
    text(3, `${node.op}_${index}`),
    text(4, node.op),
    ...Object.entries(node.attributes).map(([name, value]) => bytes(5, encodeAttribute(name, value))),
    text(7, node.domain),
  ]);
}

function encodeAttribute(name: string, value: Attribute): Uint8Array {
  const kind = { float: 1, int: 2, string: 3, ints: 7 };
  if (typeof value === "number") return concat([text(1, name), integer(3, value), integer(20, kind.int)]);
  if (typeof value === "string") return concat([text(1, name), text(4, value), integer(20, kind.string)]);
  if ("float" in value) return concat([text(1, name), float(2, value.float), integer(20, kind.float)]);
  return concat([text(1, name), ...value.map((item) => integer(8, item)), integer(20, kind.ints)]);
}

function encodeInitializer({ name, type, shape, data }: Initializer): Uint8Array {
  const head = [...shape.map((size) => integer(1, size)), integer(2, type), text(8, name)];
  if (data instanceof Uint8Array) return concat([...head, bytes(9, data)]);
  return concat([
    ...head,
    bytes(13, pair("location", data.file)),
    bytes(13, pair("offset", String(data.offset))),
    bytes(13, pair("length", String(data.length))),
    integer(14, 1), // data_location = EXTERNAL
  ]);
}

function encodeValueInfo({ name, type, shape }: ValueInfo): Uint8Array {
  const dimensions = shape?.map((size) => bytes(1, typeof size === "number" ? integer(1, size) : text(2, size)));
  const tensorType = concat([integer(1, type), ...(dimensions ? [bytes(2, concat(dimensions))] : [])]);
  return concat([text(1, name), bytes(2, bytes(1, tensorType))]);
}

function pair(key: string, value: string): Uint8Array {
  return concat([text(1, key), text(2, value)]);
}

function integer(field: number, value: number): Uint8Array {
  return concat([varint(BigInt(field << 3)), varint(BigInt.asUintN(64, BigInt(value)))]);
}

function float(field: number, value: number): Uint8Array {
  const payload = new Uint8Array(4);
  new DataView(payload.buffer).setFloat32(0, value, true);
  return concat([varint(BigInt(field << 3 | 5)), payload]);
}

function text(field: number, value: string): Uint8Array {
  return bytes(field, new TextEncoder().encode(value));
}

function bytes(field: number, payload: Uint8Array): Uint8Array {
  return concat([varint(BigInt(field << 3 | 2)), varint(BigInt(payload.length)), payload]);
}

function varint(value: bigint): Uint8Array {
  const out: number[] = [];
  for (; value > 0x7fn; value >>= 7n) out.push(Number(value & 0x7fn) | 0x80);
  out.push(Number(value));
  return Uint8Array.from(out);
}

function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    out.set(part, offset);
    offset += part.length;
  }
  return out;
}

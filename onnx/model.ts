/** The types of an ONNX model in memory, as the graph builder makes them and the protobuf writer encodes them. */

/** Element types; ONNX and ONNX Runtime number them alike. */
export const ElementType = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
} as const;
export type ElementType = typeof ElementType[keyof typeof ElementType];

/** Bytes of one element. */
export const ELEMENT_BYTES: Readonly<Record<ElementType, number>> = { 1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2 };

/** A fixed size, or the name of one that is known only at run time. */
export type Dimension = number | string;

export interface ValueInfo {
  readonly name: string;
  readonly type: ElementType;
  /** Left out where only the type is to be declared, not even the rank. */
  readonly shape?: readonly Dimension[];
}

/** A byte range of a file in the model's folder. The runtime maps it instead of copying it. */
export interface FileRange {
  readonly file: string;
  readonly offset: number;
  readonly length: number;
}

export interface Initializer {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  readonly data: Uint8Array | FileRange;
}

/** Plain numbers become integer attributes; JavaScript cannot tell 1 from 1.0, hence the wrapper for floats. */
export type Attribute = number | string | { readonly float: number } | readonly number[];

export interface Node {
  readonly op: string;
  /** `""` is ONNX itself. */
  readonly domain: string;
  /** An empty string stands for an optional input that is absent. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, Attribute>>;
}

export interface Model {
  readonly nodes: readonly Node[];
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  readonly initializers: readonly Initializer[];
  /** Operator set version per domain. */
  readonly opsets: Readonly<Record<string, number>>;
  readonly metadata: Readonly<Record<string, string>>;
}

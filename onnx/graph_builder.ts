import {
  type Attribute,
  type Dimension,
  ElementType,
  type FileRange,
  type Initializer,
  type Model,
  type Node,
  type ValueInfo,
} from "./model.ts";

/** The name of a tensor inside a graph. `ABSENT` stands for an optional input that is left out. */
export type Value = string & { readonly __value: unique symbol };

export const ABSENT = "" as Value;

/** The domain of ONNX Runtime's own operators. */
export const MICROSOFT = "com.microsoft";

export interface OpOptions {
  /** `""`, ONNX itself, unless given. */
  readonly domain?: string;
  readonly attributes?: Readonly<Record<string, Attribute>>;
}

/**
 * Collects nodes, constants, inputs and outputs of one graph, in topological order because a value exists only once its
 * node was added.
 *
 * A node that is asked for twice, same operator on the same inputs, is added once: every operator that we use is a pure
 * function, and callers need not hand small shared values (row counts, paddings) around.
 *
 * @example
 * ```ts
 * import { GraphBuilder } from "./graph_builder.ts";
 * import { ElementType } from "./model.ts";
 * const graph = new GraphBuilder();
 * const x = graph.input("x", ElementType.float32, ["rows", 2]);
 * graph.output("y", graph.op("Add", [x, x]), ElementType.float32, ["rows", 2]);
 * graph.build();
 * ```
 */
export class GraphBuilder {
  readonly #nodes: Node[] = [];
  readonly #inputs: ValueInfo[] = [];
  readonly #outputs: ValueInfo[] = [];
  readonly #initializers = new Map<string, Initializer>();
  /** Constants by content, so that equal ones are stored once. */
  readonly #constants = new Map<string, Value>();
  readonly #pure = new Map<string, readonly Value[]>();
  #values = 0;

  /** Declares a graph input. */
  input(name: string, type: ElementType, shape?: readonly Dimension[]): Value {
    if (this.#inputs.some((input) => input.name === name)) {
      throw new RangeError(`Cannot add input "${name}": the graph has one of that name`);
    }
    this.#inputs.push(shape === undefined ? { name, type } : { name, type, shape });
    return name as Value;
  }

  /** Declares a graph output that carries `value`. */
  output(name: string, value: Value, type: ElementType, shape?: readonly Dimension[]): void {
    if (name !== value) {
      this.#nodes.push({ op: "Identity", domain: "", inputs: [value], outputs: [name], attributes: {} });
    }
    this.#outputs.push(shape === undefined ? { name, type } : { name, type, shape });
  }

  /** Adds a node with one output. Trailing absent inputs may simply be left out. */
  op(op: string, inputs: readonly Value[], options: OpOptions = {}): Value {
    return this.ops(op, inputs, 1, options)[0]!;
  }

  /** Adds a node with several outputs. */
  ops(op: string, inputs: readonly Value[], outputs: number, options: OpOptions = {}): readonly Value[] {
    const { domain = "", attributes = {} } = options;
    const key = JSON.stringify([domain, op, inputs, outputs, attributes]);
    let names = this.#pure.get(key);
    if (names === undefined) {
      names = Array.from({ length: outputs }, () => `${op.toLowerCase()}_${this.#values++}` as Value);
      this.#pure.set(key, names);
      this.#nodes.push({ op, domain, inputs, outputs: names, attributes });
    }
    return names;
  }

  /** An int64 constant. A plain number is a scalar (rank 0), a list has rank 1. */
  integers(values: number | readonly number[], shape?: readonly number[]): Value {
    const list = typeof values === "number" ? [values] : values;
    const dimensions = shape ?? (typeof values === "number" ? [] : [list.length]);
    return this.#constant(ElementType.int64, dimensions, new Uint8Array(BigInt64Array.from(list, BigInt).buffer));
  }

  /** A float32 constant. */
  floats(values: number | ArrayLike<number>, shape?: readonly number[]): Value {
    const list = typeof values === "number" ? [values] : values;
    const dimensions = shape ?? (typeof values === "number" ? [] : [list.length]);
    return this.#constant(ElementType.float32, dimensions, new Uint8Array(Float32Array.from(list).buffer));
  }

  /** A named constant, in the model or in a file beside it. The same name twice is the same constant. */
  initializer(name: string, type: ElementType, shape: readonly number[], data: Uint8Array | FileRange): Value {
    if (!this.#initializers.has(name)) this.#initializers.set(name, { name, type, shape, data });
    return name as Value;
  }

  /** The nodes so far, for code that derives further nodes from them (gradients). */
  get nodes(): readonly Node[] {
    return this.#nodes;
  }

  /** The finished model, for `encodeModel`; constants that no node came to read are left out. */
  build(metadata: Readonly<Record<string, string>> = {}): Model {
    const read = new Set(this.#nodes.flatMap(({ inputs }) => inputs));
    const domains = new Set(this.#nodes.map(({ domain }) => domain));
    return {
      nodes: this.#nodes,
      inputs: this.#inputs,
      outputs: this.#outputs,
      initializers: [...this.#initializers.values()].filter(({ name }) => read.has(name as Value)),
      // Operator set 23 is the newest whose operators the runtime's CPU kernels cover completely.
      opsets: { ...Object.fromEntries([...domains, MICROSOFT].map((domain) => [domain, 1])), "": 23 },
      metadata,
    };
  }

  #constant(type: ElementType, shape: readonly number[], data: Uint8Array): Value {
    const key = `${type}[${shape}]${data.length <= 1024 ? data : this.#constants.size}`;
    let value = this.#constants.get(key);
    if (value === undefined) {
      value = this.initializer(`constant_${this.#constants.size}`, type, shape, data);
      this.#constants.set(key, value);
    }
    return value;
  }
}

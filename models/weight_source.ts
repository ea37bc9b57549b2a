/** A tensor of a checkpoint: how its file stores it. Reading always gives float32. */
export interface StoredTensor {
  /** The file's own name of the type, such as `BF16` or `Q4_K`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Its size in the file. */
  readonly bytes: number;
}

/** The weights of a checkpoint in one of the formats that we read, under Hugging Face's names. */
export interface WeightSource extends Disposable {
  /** Paths of the files, in the order of their names. */
  readonly files: readonly string[];
  /** Every tensor in the files, wanted or not. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Says why a tensor cannot be read as float32; `null` if it can. */
  refuses(name: string): string | null;
  /** Reads one whole tensor of {@linkcode tensors} as float32, row-major. */
  read(name: string): Promise<Float32Array<ArrayBuffer>>;
}

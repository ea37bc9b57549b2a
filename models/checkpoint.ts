import type { ModelDescription } from "./description.ts";
import type { TokenizerFiles } from "./tokenizer_files.ts";

/** A tensor of a checkpoint: how its file stores it. Reading always gives float32. */
export interface StoredTensor {
  /** The file's own name of the type, such as `BF16` or `Q4_K`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Its size in the file. */
  readonly bytes: number;
}

/** An open checkpoint that has been checked whole: what its description expects is there, and can be read. */
export interface Checkpoint extends Disposable {
  /** The folder or file that was opened. */
  readonly path: string;
  readonly description: ModelDescription;
  /** The configuration as found, under Hugging Face's names. */
  readonly rawConfig: Readonly<Record<string, unknown>>;
  /** Every tensor that the description expects, and no other. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** `null` where the checkpoint brings none. */
  readonly tokenizer: TokenizerFiles | null;
  /**
   * Reads one whole tensor, row-major.
   *
   * @throws {RangeError} If the description expects no tensor of that name.
   */
  read(name: string): Promise<Float32Array<ArrayBuffer>>;
  /** SHA-256 of the weight files in the order of their names, in hexadecimal. Reads them once, piece by piece. */
  digest(): Promise<string>;
  /** Closes the weight files. Calling it again does nothing. */
  close(): void;
}

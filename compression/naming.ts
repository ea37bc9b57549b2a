/**
 * Takes a step of a long job on one of its many parts. Mathematics knows no names: where it refuses its numbers, the
 * error says of what part they are.
 *
 * @param part As the weights' file has it, `layers.3.mlp.down`.
 * @throws {RangeError} If the step throws one.
 */
export async function naming<T>(part: string, step: () => T | Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new RangeError(`Cannot compress ${part}: ${cause.message}`, { cause });
  }
}

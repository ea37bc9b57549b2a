/**
 * Does something with an open file. What the system refuses then names the file, as it does where a path is given: a disk
 * that is full is one of several, and a command writes many files.
 *
 * @throws What the action throws; where that is an error of the system, with the path before its message.
 */
export async function namingFile<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (error instanceof Error && /\(os error \d+\)/.test(error.message)) error.message = `${path}: ${error.message}`;
    throw error;
  }
}

/**
 * Says a line on stderr, to whoever looks after the service. Where it cannot be said, since the disk of a file is full or
 * the terminal has been closed, the service goes on without: nothing that it does for its callers hangs on these lines.
 */
export function say(line: string): void {
  try {
    console.error(line);
  } catch {
    // There is nobody to tell.
  }
}

/** Bytes as people read them. */
export function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** What an error says. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

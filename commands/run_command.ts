/** What a path that someone gave can be at fault with; these messages name it. */
const PATH_ERRORS = [
  Deno.errors.NotFound,
  Deno.errors.NotADirectory,
  Deno.errors.IsADirectory,
  Deno.errors.AlreadyExists,
  Deno.errors.PermissionDenied,
];

/** What the machine can be at fault with: a disk that is full, failing or only read, a folder that cannot be replaced. */
const MACHINE_ERRORS = ["ENOSPC", "EROFS", "EBUSY", "EXDEV", "ENOTEMPTY", "EIO"];

/**
 * Runs a command to its end: errors of the user's making, or of the machine's, are told in a line on stderr, and the
 * process ends with 1. Anything else is a defect of ours and keeps its stack.
 */
export async function runCommand(command: () => Promise<void>): Promise<void> {
  try {
    await command();
  } catch (error) {
    const expected = error instanceof SyntaxError || error instanceof RangeError ||
      PATH_ERRORS.some((kind) => error instanceof kind) ||
      MACHINE_ERRORS.includes((error as { code?: string }).code ?? "");
    console.error(expected ? (error as Error).message : error);
    Deno.exit(1);
  }
}

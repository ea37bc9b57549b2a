/**
 * Runs a command to its end: errors of the user's making are told in a line on stderr, and the process ends with 1.
 * Anything else is a defect of ours and keeps its stack.
 */
export async function runCommand(command: () => Promise<void>): Promise<void> {
  try {
    await command();
  } catch (error) {
    const expected = error instanceof SyntaxError || error instanceof RangeError ||
      error instanceof Deno.errors.NotFound;
    console.error(expected ? error.message : error);
    Deno.exit(1);
  }
}

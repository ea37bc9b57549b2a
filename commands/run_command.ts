import { constants } from "node:os";

/** What a path that someone gave can be at fault with; these messages name it. */
const PATH_ERRORS = [
  Deno.errors.NotFound,
  Deno.errors.NotADirectory,
  Deno.errors.IsADirectory,
  Deno.errors.AlreadyExists,
  Deno.errors.PermissionDenied,
];

/** A disk that is full, a quota that is used up, a file that would be longer than it may. */
const NO_ROOM = ["ENOSPC", "EDQUOT", "EFBIG"];

/** What the machine can be at fault with: a disk without room, failing or only read, a folder that cannot be replaced. */
const MACHINE_ERRORS = [...NO_ROOM, "EROFS", "EBUSY", "EXDEV", "ENOTEMPTY", "EIO"];

/** Whether there was no room for what was to be written. */
export function isForLackOfRoom(error: unknown): boolean {
  return NO_ROOM.includes(systemCode(error));
}

/** The system's word for an error of its, or "". For some the runtime (Deno 2.9.6) has a number alone, in the message. */
function systemCode(error: unknown): string {
  const { code, message } = error as { code?: string; message?: string };
  const number = Number(/\(os error (\d+)\)/.exec(message ?? "")?.[1]);
  return code ?? Object.entries(constants.errno).find(([, errno]) => errno === number)?.[0] ?? "";
}

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
      MACHINE_ERRORS.includes(systemCode(error));
    console.error(expected ? (error as Error).message : error);
    Deno.exit(1);
  }
}

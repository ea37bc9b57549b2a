/** The model, libraries, pipes and what the runtime has; 31 with the demo. */
const OTHER_FILES = 64;

/** Connections that the kernel holds until they are accepted, and which are accepted together: `listen()`'s backlog. */
const ARRIVING = 511;

/**
 * Checks that all connections can be open at once, and as many more as can arrive before any is closed. Where the runtime
 * (Deno 2.9.6) finds no file left for one, it accepts none from then on and tells nobody.
 *
 * @param most Files that the process may have open.
 * @throws {RangeError} If so many connections do not fit.
 */
export function checkOpenFiles(maxConnections: number, most: number): void {
  const others = ARRIVING + OTHER_FILES;
  if (maxConnections + others <= most) return;
  const fewer = most > others ? `, or give --max-connections ${most - others}` : "";
  throw new RangeError(
    `--max-connections ${maxConnections} needs ${maxConnections + others} files, and ${most} can be open: raise ` +
      `ulimit -n${fewer}`,
  );
}

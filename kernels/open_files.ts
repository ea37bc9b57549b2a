import { LIBC } from "./libc.ts";

/** `RLIMIT_NOFILE`, which is another number on each. */
const OPEN_FILES = Deno.build.os === "darwin" ? 8 : 7;

/** Files and sockets that this process may have open at once (`ulimit -n`); Deno does not tell. */
export function openFilesLimit(): number {
  // `struct rlimit` has the limit in force and the highest that can be asked for. Deno asks for that when it starts.
  const limits = new BigUint64Array(2);
  const libc = Deno.dlopen(LIBC, { getrlimit: { parameters: ["i32", "buffer"], result: "i32" } });
  try {
    if (libc.symbols.getrlimit(OPEN_FILES, limits) !== 0) throw new Error("Cannot ask how many files can be open");
    return Number(limits[0]);
  } finally {
    libc.close();
  }
}

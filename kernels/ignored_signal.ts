import { LIBC } from "./libc.ts";

/** Numbers that all of Linux and macOS have in common. */
const NUMBERS = { SIGHUP: 1 } as const;

/** C's `SIG_IGN`, where a handler's address would be. */
const IGNORE = 1n;

/**
 * Whether a signal does nothing to this process, since whoever started it wanted so: `nohup` shields a process from SIGHUP
 * like this, and listening to the signal would take the shield away. Deno itself cannot tell, and reads
 * `/proc/self/status` only with all permissions.
 */
export function signalIsIgnored(signal: keyof typeof NUMBERS): boolean {
  // `struct sigaction` begins with the handler; it has 152 bytes on Linux and 16 on macOS.
  const action = new BigUint64Array(32);
  const libc = Deno.dlopen(LIBC, { sigaction: { parameters: ["i32", "pointer", "buffer"], result: "i32" } });
  try {
    const problem = libc.symbols.sigaction(NUMBERS[signal], null, action);
    if (problem !== 0) throw new Error(`Cannot ask what ${signal} does`);
    return action[0] === IGNORE;
  } finally {
    libc.close();
  }
}

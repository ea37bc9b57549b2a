/** The C library of this process, as `Deno.dlopen()` finds it. */
export const LIBC = Deno.build.os === "darwin" ? "libSystem.B.dylib" : "libc.so.6";

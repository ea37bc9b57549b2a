const STDIO = {
  fopen: { parameters: ["buffer", "buffer"], result: "pointer" },
  fclose: { parameters: ["pointer"], result: "i32" },
  malloc_info: { parameters: ["i32", "pointer"], result: "i32" },
} as const;

/**
 * Bytes that native code of this process has and did not give back. Unlike resident memory they do not go up and down
 * with what allocators keep for later and the kernel takes back in its own time. Linux with the GNU C library only.
 */
export interface HeldMemory {
  /** From the allocator, in all of its arenas. */
  readonly allocated: number;
  /** Mapped in huge pages, as our operators map their weights. */
  readonly mapped: number;
}

/** What native code holds now. @throws {Error} If the C library or the kernel does not tell. */
export async function heldMemory(): Promise<HeldMemory> {
  const path = await Deno.makeTempFile();
  try {
    return { allocated: await allocatedBytes(path), mapped: await mappedBytes() };
  } finally {
    await Deno.remove(path);
  }
}

/** @param path Of a file for what the allocator says. */
async function allocatedBytes(path: string): Promise<number> {
  const libc = Deno.dlopen("libc.so.6", STDIO);
  const c = (text: string) => new TextEncoder().encode(`${text}\0`);
  const file = libc.symbols.fopen(c(path), c("w"));
  const problem = libc.symbols.malloc_info(0, file);
  libc.symbols.fclose(file);
  libc.close();
  if (problem !== 0) throw new Error("Cannot ask the allocator what it gave");
  // After what each arena has comes what they have together.
  const text = (await Deno.readTextFile(path)).split("</heap>").at(-1)!;
  const size = (what: string) => {
    const found = new RegExp(`<${what}[^>]* size="(\\d+)"`).exec(text)?.[1];
    if (found === undefined) throw new Error(`The allocator says nothing of <${what}>: ${text}`);
    return Number(found);
  };
  const free = size('total type="fast"') + size('total type="rest"');
  return size('system type="current"') - free + size('total type="mmap"');
}

async function mappedBytes(): Promise<number> {
  const mappings = (await Deno.readTextFile("/proc/self/smaps")).matchAll(/^Size: +(\d+) kB$[^]*?^VmFlags: (.*)$/gm);
  return mappings.reduce((sum, [, size, flags]) => sum + (/\bhg\b/.test(flags!) ? 1024 * Number(size) : 0), 0);
}

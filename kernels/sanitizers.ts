/** Builds of the native code that look for wrong addresses, leaks and undefined behaviour: for checks. */

/** Flags for compiling and linking. With frame pointers a report says where memory came from. */
export const SANITIZERS: readonly string[] = [
  "-fsanitize=address,undefined",
  "-fno-sanitize-recover=all",
  "-fno-omit-frame-pointer",
  "-O1",
];

/** What such a program is told: to look for leaks when it ends, and to end with an error then. */
export const SANITIZER_SETTINGS: Readonly<Record<string, string>> = { ASAN_OPTIONS: "detect_leaks=1" };

/** Whether a compiler links programs with them, and these run. */
export async function linksSanitizers(compiler: string): Promise<boolean> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/empty.cpp`, "int main() {}\n");
    const succeeds = async (program: string, args: string[]) => {
      const command = new Deno.Command(program, { args, env: SANITIZER_SETTINGS, stdout: "null", stderr: "null" });
      return (await command.output()).success;
    };
    return await succeeds(compiler, [...SANITIZERS, `${folder}/empty.cpp`, "-o", `${folder}/empty`]) &&
      await succeeds(`${folder}/empty`, []);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

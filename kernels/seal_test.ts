import { rejects } from "node:assert/strict";
import { checkSeal, seal } from "./seal.ts";

Deno.test("checkSeal() takes what seal() sealed, and nothing that was cut short or changed", async () => {
  const file = await Deno.makeTempFile();
  try {
    const content = new Uint8Array(1000).fill(7);
    await Deno.writeFile(file, content);
    await rejects(checkSeal(file), { message: `${file}: cut short, changed, or not made by a build of ours` });
    await seal(file);
    await checkSeal(file);
    const sealed = await Deno.readFile(file);
    for (const length of [0, 10, 32, 500, sealed.length - 1]) {
      await Deno.writeFile(file, sealed.subarray(0, length));
      await rejects(checkSeal(file), /cut short/, `${length} bytes`);
    }
    for (const start of [0, 500, content.length]) {
      await Deno.writeFile(file, sealed.map((byte, index) => start <= index && index < start + 8 ? 0 : byte));
      await rejects(checkSeal(file), /changed/, `zeros at ${start}`);
    }
    await rejects(checkSeal(`${file}.none`), Deno.errors.NotFound);
  } finally {
    await Deno.remove(file);
  }
});

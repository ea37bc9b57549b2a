import { it } from "@std/testing/bdd";
import { equal, match } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { saveTrainingState } from "../compression/training/training_state.ts";

it("train_demo.ts leaves the folder of another run as it is", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const out = `${folder}/out`;
    await Deno.mkdir(out);
    const one = new Float32Array(1);
    const arrays = { weights: one, mean: one, square: one, best: one };
    const state = { step: 1, steps: 2, bestLoss: 3, arrays };
    await saveTrainingState(`${out}/training_state.safetensors`, "another", state);
    const texts = ["held_out.txt", "learned.txt"];
    for (const name of texts) await Deno.writeTextFile(`${out}/${name}`, "of the other run");
    const text = fileURLToPath(new URL("../artifacts/calibration.txt", import.meta.url));
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", fileURLToPath(import.meta.resolve("./train_demo.ts")), "--text", text]
        .concat("--out", out, "--steps", "1", "--threads", "1"),
    }).output();
    equal(code, 1);
    match(new TextDecoder().decode(stderr), /^Cannot resume from .*: it is of the run another/);
    for (const name of texts) equal(await Deno.readTextFile(`${out}/${name}`), "of the other run");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

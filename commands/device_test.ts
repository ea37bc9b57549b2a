import { describe, it } from "@std/testing/bdd";
import { equal, ok, rejects } from "node:assert/strict";
import { openRuntime } from "../onnx/mod.ts";
import { chooseDevice, describeDevice } from "./device.ts";

const runtime = openRuntime();
const cudaWorks = await chooseDevice("cuda", runtime).then(() => true, () => false);

describe("chooseDevice()", () => {
  it("takes the CPU where it is asked for, and says so", async () => {
    const chosen = await chooseDevice("cpu", runtime);
    equal(describeDevice(chosen), "device cpu: asked for");
    equal(chosen.operators === null, chosen.instructionSet === "stock");
  });

  if (cudaWorks) {
    it("takes CUDA by itself, after a product on it", async () => {
      const chosen = await chooseDevice("auto", runtime);
      ok(/^device cuda \(.+\): auto; compute capability .+ off the CPU's$/.test(describeDevice(chosen)));
    });
  } else {
    it("fails where CUDA is asked for and something is missing, by its name", async () => {
      await rejects(
        chooseDevice("cuda", runtime),
        /^RangeError: CUDA was asked for and cannot be used: .*(driver|device|ONNX Runtime|operators)/s,
      );
    });

    it("takes the CPU by itself, and says what CUDA lacks", async () => {
      const chosen = await chooseDevice("auto", runtime);
      ok(/^device cpu: auto, since CUDA cannot be used: ./.test(describeDevice(chosen)), describeDevice(chosen));
    });
  }
});

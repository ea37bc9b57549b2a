import type { Artefact } from "../models/artefact.ts";
import { type Decoder, openDecoder } from "../models/decoder.ts";
import { openRuntime } from "../onnx/mod.ts";
import { chooseDevice, type DeviceFlag, sayDevice } from "./device.ts";

/**
 * A decoder of one sequence at a time. It says on stderr where it runs.
 *
 * @param maxTokens Of the sequence.
 * @param maxRows Of a step.
 * @throws {RangeError} If the device that is asked for cannot be had.
 */
export async function openSingleDecoder(
  artefact: Artefact,
  { device, ...options }: {
    readonly device: DeviceFlag;
    readonly maxTokens: number;
    readonly maxRows: number;
    readonly threads: number;
  },
): Promise<Decoder> {
  const runtime = openRuntime();
  const chosen = await chooseDevice(device, runtime);
  sayDevice(chosen);
  return await openDecoder(runtime, {
    plan: artefact.plan,
    weights: artefact.weights(),
    folder: artefact.folder,
    lanes: 1,
    device: chosen.device,
    operators: chosen.operators,
    ...options,
  });
}

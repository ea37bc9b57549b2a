import { z } from "zod";
import { describeKernels, openCudaKernels, openKernels } from "../kernels/native_library.ts";
import type { Device } from "../models/decoder.ts";
import { probeDevice } from "../models/device_probe.ts";
import { cudaDevice, type Runtime } from "../onnx/mod.ts";

/** The flag of everything that runs a model. */
export const DeviceFlag = z.enum(["cpu", "cuda", "auto"]).default("auto")
  .describe(
    "Where steps run: cuda fails without a device, and says so if stock operators serve; auto says what it took and why",
  );
export type DeviceFlag = z.output<typeof DeviceFlag>;

/** Where a model runs, and with which operators. */
export interface ChosenDevice {
  readonly device: Device;
  /** Such as "NVIDIA H100 80GB HBM3"; null for the CPU. */
  readonly name: string | null;
  /** Why this one, and how it is known to work. */
  readonly reason: string;
  /** Library of our operators for it; null for stock ones, on a CUDA device in half precision. */
  readonly operators: string | null;
  /** What our operators compute with, from a small set; "stock" without them. */
  readonly instructionSet: string;
  /** The instruction set and what the library lacks of them, or "stock" and why. */
  readonly kernels: string;
}

/**
 * Decides where steps run. A CUDA device is taken only after an operator has multiplied on it as plain TypeScript does; the
 * sessions themselves refuse graphs of ours of which a node would run on the CPU. With stock operators a device is taken only
 * where it is asked for by name.
 *
 * @param onUnit Told while operators compile.
 * @throws {RangeError} If CUDA is asked for by name and cannot be used; the message says why. Or if a library of operators
 * or an instruction set is named that cannot be used.
 */
export async function chooseDevice(
  asked: DeviceFlag,
  runtime: Runtime,
  onUnit?: (done: number, total: number) => void,
): Promise<ChosenDevice> {
  if (asked === "cpu") return await cpu("asked for", onUnit);
  try {
    return await cuda(asked, runtime, onUnit);
  } catch (cause) {
    const problem = (cause as Error).message.trim();
    if (asked === "cuda") throw new RangeError(`CUDA was asked for and cannot be used: ${problem}`, { cause });
    return await cpu(`auto, since CUDA cannot be used: ${problem}`, onUnit);
  }
}

/** Whether it can only be the CPU, which is known before anything is compiled. */
export function isCpuOnly(asked: DeviceFlag): boolean {
  if (asked !== "auto") return asked === "cpu";
  try {
    cudaDevice();
    return false;
  } catch {
    return true;
  }
}

/** One line for people. */
export function describeDevice({ device, name, reason }: Pick<ChosenDevice, "device" | "name" | "reason">): string {
  return `device ${device}${name === null ? "" : ` (${name})`}: ${reason}`;
}

/** Says on stderr where a command runs, and why with stock operators if it does. */
export function sayDevice(chosen: ChosenDevice): void {
  console.error(describeDevice(chosen));
  if (chosen.operators === null) console.error(`Stock operators: ${chosen.kernels.replace(/^stock: /, "")}`);
}

async function cpu(reason: string, onUnit?: (done: number, total: number) => void): Promise<ChosenDevice> {
  const { kernels, reason: missing } = await openKernels(onUnit);
  return {
    device: "cpu",
    name: null,
    reason,
    operators: kernels?.path ?? null,
    instructionSet: kernels?.instructionSet ?? "stock",
    kernels: kernels === null ? `stock: ${missing}` : describeKernels(kernels),
  };
}

/** What is cheap to find missing is looked for first. */
async function cuda(
  asked: "cuda" | "auto",
  runtime: Runtime,
  onUnit?: (done: number, total: number) => void,
): Promise<ChosenDevice> {
  const { name, computeCapability, driverVersion } = cudaDevice();
  const problem = runtime.cudaProblem();
  if (problem !== null) {
    throw new Error(`ONNX Runtime (ESPALIER_ONNXRUNTIME is its path) cannot use ${name}: ${problem}`);
  }
  const { kernels, reason } = await openCudaKernels(onUnit);
  if (kernels === null && asked === "auto") throw new Error(`there are no operators for ${name}: ${reason}`);
  const error = await probeDevice(runtime, kernels?.path ?? null);
  return {
    device: "cuda",
    name,
    reason: `${asked === "cuda" ? "asked for" : "auto"}; compute capability ${computeCapability}, driver for CUDA ` +
      `${driverVersion}; ` +
      (kernels === null
        ? `STOCK OPERATORS in half precision, which are slower, with sizes computed on the CPU (${reason}); `
        : "every node of the graph runs on it, and ") +
      `a product there was ${error.toExponential(1)} off the CPU's`,
    operators: kernels?.path ?? null,
    instructionSet: kernels === null ? "stock" : "cuda",
    kernels: kernels === null ? `stock: ${reason}` : `cuda ${computeCapability}`,
  };
}

import { join } from "node:path";

/** A number that the machine tells about itself, and how to read it now. */
export interface DeviceSensor {
  readonly quantity: "temperature_celsius" | "power_watts" | "utilization_ratio";
  /** What the machine calls it, unique among sensors of its quantity. */
  readonly name: string;
  /** Null while it cannot be read: a zone that is switched off, a device that sleeps. */
  readonly read: () => Promise<number | null>;
}

/**
 * Finds what Linux tells below `sysfs` (`/sys`, or where a container has it): thermal zones, power monitors (INA3221,
 * and any with a power register), load of GPUs. Machines without them have none.
 *
 * @throws {Deno.errors.NotCapable} If Deno may not read there. Below `/sys` itself that takes `--allow-all`.
 * @see https://docs.kernel.org/driver-api/thermal/sysfs-api.html, https://docs.kernel.org/hwmon/ina3221.html
 */
export async function findDeviceSensors(sysfs: string): Promise<DeviceSensor[]> {
  const found = [
    ...await thermalZones(join(sysfs, "class/thermal")),
    ...await powerMonitors(join(sysfs, "class/hwmon")),
    ...await gpuLoads(sysfs),
  ];
  return found.map((sensor) => {
    const same = found.filter(({ quantity, name }) => quantity === sensor.quantity && name === sensor.name);
    return same.length === 1 ? sensor : { ...sensor, name: `${sensor.name} ${same.indexOf(sensor)}` };
  });
}

/** `thermal_zone*`: `type` is its name, `temp` is in thousandths of a degree. */
async function thermalZones(folder: string): Promise<DeviceSensor[]> {
  const sensors: DeviceSensor[] = [];
  for (const zone of await entries(folder, /^thermal_zone\d+$/)) {
    const name = await text(join(folder, zone, "type"));
    if (name === null) continue;
    const read = async () => scaled(await text(join(folder, zone, "temp")), 1e-3);
    sensors.push({ quantity: "temperature_celsius", name, read });
  }
  return sensors;
}

/**
 * `hwmon*`: `power<n>_input` is in microwatts. An INA3221 gives volts (`in<n>_input`, thousandths) and amperes
 * (`curr<n>_input`, thousandths) of three rails, with names in `in<n>_label`.
 */
async function powerMonitors(folder: string): Promise<DeviceSensor[]> {
  const sensors: DeviceSensor[] = [];
  for (const monitor of await entries(folder, /^hwmon\d+$/)) {
    const path = (name: string) => join(folder, monitor, name);
    const chip = await text(path("name")) ?? monitor;
    for (const file of await entries(path(""), /^power\d+_input$/)) {
      const label = await text(path(file.replace("_input", "_label")));
      const read = async () => scaled(await text(path(file)), 1e-6);
      sensors.push({ quantity: "power_watts", name: label ?? `${chip} ${file.split("_")[0]}`, read });
    }
    if (chip !== "ina3221") continue;
    for (const file of await entries(path(""), /^curr[123]_input$/)) {
      const rail = file[4]!;
      const read = async () => {
        const volts = scaled(await text(path(`in${rail}_input`)), 1e-3);
        const amperes = scaled(await text(path(file)), 1e-3);
        return volts === null || amperes === null ? null : volts * amperes;
      };
      const name = await text(path(`in${rail}_label`)) ?? `${chip} ${rail}`;
      sensors.push({ quantity: "power_watts", name, read });
    }
  }
  return sensors;
}

/**
 * Three kernels, three places: `class/devfreq/*\/device/load` in thousandths (Jetson), `class/devfreq/*\/load` as
 * `percent@frequency` (Rockchip), and `class/drm/card*\/device/gpu_busy_percent` (AMD).
 */
async function gpuLoads(sysfs: string): Promise<DeviceSensor[]> {
  const sensors: DeviceSensor[] = [];
  const add = async (name: string, path: string, share: (text: string) => number | null) => {
    if (await text(path) === null) return;
    const read = async () => {
      const now = await text(path);
      return now === null ? null : share(now);
    };
    sensors.push({ quantity: "utilization_ratio", name, read });
  };
  const devfreq = join(sysfs, "class/devfreq");
  for (const device of await entries(devfreq, /gpu|gv11b|ga10b|gp10b|mali/)) {
    await add(device, join(devfreq, device, "device/load"), (now) => scaled(now, 1e-3));
    await add(device, join(devfreq, device, "load"), (now) => scaled(/^(\d+)@/.exec(now)?.[1] ?? null, 1e-2));
  }
  const drm = join(sysfs, "class/drm");
  for (const card of await entries(drm, /^card\d+$/)) {
    await add(card, join(drm, card, "device/gpu_busy_percent"), (now) => scaled(now, 1e-2));
  }
  return sensors;
}

/** Names in a folder that match, in the order of their numbers; none if there is no such folder. */
async function entries(folder: string, pattern: RegExp): Promise<string[]> {
  try {
    const names = await Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
    return names.filter((name) => pattern.test(name))
      .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return [];
  }
}

/** A file's line; null if it cannot be read, which for a sensor is a state like others. */
async function text(path: string): Promise<string | null> {
  try {
    return (await Deno.readTextFile(path)).trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return null;
  }
}

function scaled(text: string | null, factor: number): number | null {
  return text === null || !/^-?\d+$/.test(text) ? null : Number(text) * factor;
}

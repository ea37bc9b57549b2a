import { afterAll, beforeAll, describe, it } from "@std/testing/bdd";
import { deepEqual, equal } from "node:assert/strict";
import { dirname, join } from "node:path";
import { Registry } from "prom-client";
import { registerDeviceMetrics } from "./device_metrics.ts";
import { findDeviceSensors } from "./device_sensors.ts";

/** Files as a Jetson Orin has them, and a folder that cannot be read. */
const JETSON = {
  "class/thermal/thermal_zone0/type": "cpu-thermal\n",
  "class/thermal/thermal_zone0/temp": "48531\n",
  "class/thermal/thermal_zone1/type": "gpu-thermal\n",
  "class/thermal/thermal_zone1/temp": "-1250\n",
  "class/thermal/thermal_zone2/type": "cv0-thermal\n",
  "class/thermal/thermal_zone10/type": "soc-thermal\n",
  "class/thermal/thermal_zone10/temp": "47000\n",
  "class/thermal/cooling_device0/type": "pwm-fan\n",
  "class/hwmon/hwmon0/name": "cpu_thermal\n",
  "class/hwmon/hwmon4/name": "ina3221\n",
  "class/hwmon/hwmon4/in1_label": "VDD_IN\n",
  "class/hwmon/hwmon4/in1_input": "5000\n",
  "class/hwmon/hwmon4/curr1_input": "1500\n",
  "class/hwmon/hwmon4/in2_input": "5000\n",
  "class/hwmon/hwmon4/curr2_input": "200\n",
  "class/hwmon/hwmon4/in4_input": "1\n",
  "class/devfreq/17000000.gpu/device/load": "375\n",
  "class/devfreq/15340000.vic/device/load": "10\n",
};

/** As other boards have them; two zones of one type. */
const OTHERS = {
  "class/thermal/thermal_zone0/type": "acpitz\n",
  "class/thermal/thermal_zone0/temp": "30000\n",
  "class/thermal/thermal_zone1/type": "acpitz\n",
  "class/thermal/thermal_zone1/temp": "31000\n",
  "class/hwmon/hwmon0/name": "amdgpu\n",
  "class/hwmon/hwmon0/power1_input": "12500000\n",
  "class/devfreq/fb000000.gpu/load": "62@1000000000Hz\n",
  "class/drm/card0/device/gpu_busy_percent": "7\n",
  "class/drm/card0-HDMI-A-1/status": "connected\n",
};

describe("Device sensors", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await Deno.makeTempDir();
    for (const [name, files] of Object.entries({ jetson: JETSON, others: OTHERS })) {
      for (const [path, text] of Object.entries(files)) {
        await Deno.mkdir(join(folder, name, dirname(path)), { recursive: true });
        await Deno.writeTextFile(join(folder, name, path), text);
      }
    }
  });
  afterAll(() => Deno.remove(folder, { recursive: true }));

  async function readings(sysfs: string) {
    const sensors = await findDeviceSensors(sysfs);
    return Promise.all(sensors.map(async ({ quantity, name, read }) => [quantity, name, await read()]));
  }

  it("are a Jetson's zones, rails (volts by amperes) and GPU", async () => {
    deepEqual(await readings(`${folder}/jetson`), [
      ["temperature_celsius", "cpu-thermal", 48.531],
      ["temperature_celsius", "gpu-thermal", -1.25],
      ["temperature_celsius", "cv0-thermal", null],
      ["temperature_celsius", "soc-thermal", 47],
      ["power_watts", "VDD_IN", 7.5],
      ["power_watts", "ina3221 2", 1],
      ["utilization_ratio", "17000000.gpu", 0.375],
    ]);
  });

  it("are told apart where two have one name, and read other boards' files", async () => {
    deepEqual(await readings(`${folder}/others`), [
      ["temperature_celsius", "acpitz 0", 30],
      ["temperature_celsius", "acpitz 1", 31],
      ["power_watts", "amdgpu power1", 12.5],
      ["utilization_ratio", "fb000000.gpu", 0.62],
      ["utilization_ratio", "card0", 0.07],
    ]);
  });

  it("are none on a machine without any", async () => {
    deepEqual(await findDeviceSensors(`${folder}/nothing`), []);
  });

  it("are series that follow the files, and are absent while they cannot be read", async () => {
    const registry = new Registry();
    registerDeviceMetrics(registry, await findDeviceSensors(`${folder}/jetson`));
    const series = async () => (await registry.metrics()).split("\n").filter((line) => /gpu-thermal|VDD_IN/.test(line));
    const temperature = 'espalier_device_temperature_celsius{sensor="gpu-thermal"}';
    const power = 'espalier_device_power_watts{sensor="VDD_IN"}';
    deepEqual(await series(), [`${temperature} -1.25`, `${power} 7.5`]);

    const file = join(folder, "jetson/class/thermal/thermal_zone1/temp");
    await Deno.writeTextFile(file, "51000\n");
    deepEqual(await series(), [`${temperature} 51`, `${power} 7.5`]);
    await Deno.remove(file);
    deepEqual(await series(), [`${power} 7.5`]);
    await Deno.writeTextFile(file, "52000\n");
    deepEqual(await series(), [`${temperature} 52`, `${power} 7.5`]);
  });

  it("leave out quantities that the machine does not tell", async () => {
    const registry = new Registry();
    registerDeviceMetrics(registry, []);
    equal((await registry.metrics()).trim(), "");
  });
});

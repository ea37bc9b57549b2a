import { Gauge, type Registry } from "prom-client";
import type { DeviceSensor } from "./device_sensors.ts";

const HELP: Readonly<Record<DeviceSensor["quantity"], string>> = {
  temperature_celsius: "Temperature of a thermal zone",
  power_watts: "Power of a rail or device",
  utilization_ratio: "Busy share of a GPU",
};

/** Registers a series for each quantity that has sensors. They are read when they are scraped. */
export function registerDeviceMetrics(registry: Registry, sensors: readonly DeviceSensor[]): void {
  for (const quantity of Object.keys(HELP) as DeviceSensor["quantity"][]) {
    const own = sensors.filter((sensor) => sensor.quantity === quantity);
    if (own.length === 0) continue;
    new Gauge({
      name: `espalier_device_${quantity}`,
      help: HELP[quantity],
      labelNames: ["sensor"],
      registers: [registry],
      async collect() {
        const values = await Promise.all(own.map(({ read }) => read()));
        for (const [index, value] of values.entries()) {
          const labels = { sensor: own[index]!.name };
          if (value === null) this.remove(labels);
          else this.set(labels, value);
        }
      },
    });
  }
}

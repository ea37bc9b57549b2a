/** What the service measures about its machine and about itself, besides its requests. */
export { ContentionSensor, type ContentionSensorOptions, OTHER_CPU_SHARE } from "./contention_sensor.ts";
export { registerDeviceMetrics } from "./device_metrics.ts";
export { type DeviceSensor, findDeviceSensors } from "./device_sensors.ts";
export { registerProcessMetrics } from "./process_metrics.ts";
export { type PrometheusQuestion, queryPrometheus } from "./prometheus_query.ts";

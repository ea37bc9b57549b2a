/** ONNX Runtime: graphs as values, sessions over its C API. */
export { alignedFloats, wishForHugePages } from "./aligned_array.ts";
export { type CudaDevice, cudaDevice, type DeviceMemory, type PinnedMemory } from "./cuda_device.ts";
export type { CudaOptions } from "./cuda_provider.ts";
export type { BoundTensor } from "./bound_tensor.ts";
export { DeviceTensor } from "./device_tensor.ts";
export { ABSENT, GraphBuilder, MICROSOFT, type OpOptions, type Value } from "./graph_builder.ts";
export * from "./model.ts";
export { encodeModel } from "./protobuf.ts";
export { openRuntime, Runtime } from "./runtime.ts";
export { Binding, type BindingOptions, Session, type SessionOptions } from "./session.ts";
export { Tensor, type TensorData } from "./tensor.ts";

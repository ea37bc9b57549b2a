/** ONNX Runtime: graphs as values, sessions over its C API. */
export { OrtError } from "./c_api.ts";
export { ABSENT, GraphBuilder, MICROSOFT, type OpOptions, type Value } from "./graph_builder.ts";
export * from "./model.ts";
export { encodeModel } from "./protobuf.ts";
export { openRuntime, Runtime } from "./runtime.ts";
export { Binding, Session, type SessionOptions } from "./session.ts";
export { Tensor, type TensorData } from "./tensor.ts";

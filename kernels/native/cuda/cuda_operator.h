// What every operator for CUDA needs beside `operator.h`: its description, the stream of a run, work memory on the
// device.
#pragma once

#include "../operator.h"
#include "driver.h"

// Returns from the enclosing function, which has an `api`, if a call to the driver failed.
#define RETURN_IF_DRIVER_FAILED(call)                                       \
  do {                                                                      \
    if (const char* message_ = (call)) return failure(api, "%s", message_); \
  } while (0)

namespace espalier::cuda {

// As `describeOperator`, for CUDA: inputs and outputs are on the device.
template <typename Kernel>
constexpr ort::CustomOp cudaOperator() {
  ort::CustomOp op = describeOperator<Kernel>();
  op.getProvider = [](const ort::CustomOp*) -> const char* { return "CUDAExecutionProvider"; };
  return op;
}

// The stream that a run's kernels are launched on.
inline ort::Status* streamOf(ort::Api api, const ort::KernelContext* context, Stream** out) {
  void* stream = nullptr;
  RETURN_IF_FAILED(ort::GetStream::call(api, context, &stream));
  *out = static_cast<Stream*>(stream);
  return nullptr;
}

}  // namespace espalier::cuda

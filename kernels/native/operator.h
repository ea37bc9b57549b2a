// What every operator needs: statuses, tensors, attributes, work memory.
//
// Rules, and why:
// - No object with a destructor at namespace or function scope: the process may end while the runtime holds our
// structs.
// - No exception leaves a callback: the callers are C functions.
// - A kernel is shared by all runs of a session, which may overlap: it is written at creation only.
#pragma once

#include <new>
#include <type_traits>

#include "onnxruntime_abi.h"

// Returns from the enclosing function if a call failed.
#define RETURN_IF_FAILED(call)                         \
  do {                                                 \
    if (ort::Status* status_ = (call)) return status_; \
  } while (0)

namespace espalier {

struct Shape {
  static constexpr size_t maxRank = 8;
  int64_t sizes[maxRank] = {};
  size_t rank = 0;

  int64_t count() const;
};

// An error status with a message of printf's form.
ort::Status* failure(ort::Api api, const char* format, ...) __attribute__((format(printf, 2, 3)));

ort::Status* readValue(ort::Api api, const ort::Value* value, const void** data, Shape* shape);

// Attributes and constants of an operator: those of a node, or of a part of a chain.
struct OperatorInfo {
  ort::Api api;
  const ort::KernelInfo* node;
  const char* prefix = "";  // before the names of its attributes
  // Which of the node's inputs its own are, negative where it has none; null where they are the node's.
  const int64_t* inputs = nullptr;
  size_t inputCount = 0;  // of `inputs`
};

// An input that is known when the kernel is made.
ort::Status* readConstantValue(const OperatorInfo&, size_t index, const void** data, Shape* shape);

template <typename T>
ort::Status* readConstant(const OperatorInfo& info, size_t index, const T** data, Shape* shape) {
  return readConstantValue(info, index, reinterpret_cast<const void**>(data), shape);
}

// A list of integers of a known length.
ort::Status* readIntegers(const OperatorInfo&, const char* name, int64_t* out, size_t capacity, size_t* count);

ort::Status* readInteger(const OperatorInfo&, const char* name, size_t* out);

ort::Status* readFloat(const OperatorInfo&, const char* name, float* out);

// A string, with its end.
ort::Status* readString(const OperatorInfo&, const char* name, char* out, size_t capacity);

// An input of a node's run; data is null if it is absent.
template <typename T>
ort::Status* readInput(ort::Api api, const ort::KernelContext* context, size_t index, const T** data, Shape* shape) {
  const ort::Value* value = nullptr;
  *data = nullptr;
  RETURN_IF_FAILED(ort::GetInput::call(api, context, index, &value));
  return value ? readValue(api, value, reinterpret_cast<const void**>(data), shape) : nullptr;
}

template <typename T>
ort::Status* makeOutput(ort::Api api, ort::KernelContext* context, size_t index, const Shape& shape, T** data) {
  ort::Value* value = nullptr;  // owned by the context
  RETURN_IF_FAILED(ort::GetOutput::call(api, context, index, shape.sizes, shape.rank, &value));
  return ort::GetData::call(api, value, reinterpret_cast<void**>(data));
}

// What a run of an operator takes and makes, whether it is a node or a part of a chain.
class Operands {
 public:
  explicit Operands(ort::Api api) : api(api) {}

  // Data is null if the input is absent.
  template <typename T>
  ort::Status* input(size_t index, const T** data, Shape* shape) {
    return inputValue(index, reinterpret_cast<const void**>(data), shape);
  }

  virtual ort::Status* output(const Shape& shape, float** data) = 0;

  const ort::Api api;

 protected:
  ~Operands() = default;
  virtual ort::Status* inputValue(size_t index, const void** data, Shape* shape) = 0;
};

// Those of a node with one output.
class NodeOperands final : public Operands {
 public:
  NodeOperands(ort::Api api, ort::KernelContext* context) : Operands(api), context_(context) {}
  ort::Status* output(const Shape& shape, float** data) override { return makeOutput(api, context_, 0, shape, data); }

 protected:
  ort::Status* inputValue(size_t index, const void** data, Shape* shape) override {
    return readInput(api, context_, index, data, shape);
  }

 private:
  ort::KernelContext* context_;
};

// Memory for the time of a run, from the session's arena: pages that are already there.
class WorkMemory {
 public:
  WorkMemory(ort::Api api, ort::Allocator* allocator) : api_(api), allocator_(allocator) {}
  ~WorkMemory();
  WorkMemory(const WorkMemory&) = delete;
  WorkMemory& operator=(const WorkMemory&) = delete;
  ort::Status* allocate(size_t bytes, void** aligned);

 private:
  ort::Api api_;
  ort::Allocator* allocator_;
  void* memory_ = nullptr;
};

// Prepares a kernel and gives it to the runtime, which destroys only kernels that it was given.
template <typename Kernel>
ort::Status* prepareKernel(Kernel* kernel, ort::Api api, const ort::KernelInfo* info, void** out) {
  if (!kernel) return failure(api, "Cannot create a kernel: out of memory");
  if (ort::Status* status = kernel->prepare(info)) {
    delete kernel;
    return status;
  }
  *out = kernel;
  return nullptr;
}

// Fields that all operators share; those left out are null, which the runtime accepts for them. A kernel is prepared
// once, `prepare(const ort::KernelInfo*)`, and then run, `compute(ort::KernelContext*) const`.
template <typename Kernel>
constexpr ort::CustomOp describeOperator() {
  ort::CustomOp op{};
  op.version = ort::apiVersion;
  op.getProvider = [](const ort::CustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.getOutputCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.getOutputType = [](const ort::CustomOp*, size_t) { return ort::float32; };
  op.getInputPresence = [](const ort::CustomOp*, size_t) { return ort::required; };
  op.getOutputPresence = [](const ort::CustomOp*, size_t) { return ort::required; };
  op.getInputMemory = [](const ort::CustomOp*, size_t) { return ort::ownMemory; };
  op.getVariadicInputMinimum = [](const ort::CustomOp*) { return 1; };
  op.getVariadicInputSameType = [](const ort::CustomOp*) { return 0; };
  op.getVariadicOutputMinimum = [](const ort::CustomOp*) { return 1; };
  op.getVariadicOutputSameType = [](const ort::CustomOp*) { return 1; };
  if constexpr (std::is_constructible_v<Kernel, ort::Api>) {  // a kernel that is made of more says how itself
    op.createKernelV2 = [](const ort::CustomOp*, ort::Api api, const ort::KernelInfo* info, void** out) {
      return prepareKernel(new (std::nothrow) Kernel(api), api, info, out);
    };
  }
  op.computeV2 = [](void* kernel, ort::KernelContext* context) {
    return static_cast<const Kernel*>(kernel)->compute(context);
  };
  op.destroyKernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

}  // namespace espalier

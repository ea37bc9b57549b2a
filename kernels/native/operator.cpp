#include "operator.h"

#include <cstdarg>
#include <cstdio>

#include "rounding.h"

namespace espalier {

int64_t Shape::count() const {
  int64_t product = 1;
  for (size_t i = 0; i < rank; i++) product *= sizes[i];
  return product;
}

ort::Status* failure(ort::Api api, const char* format, ...) {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  return ort::CreateStatus::call(api, ort::invalidArgument, message);
}

ort::Status* readValue(ort::Api api, const ort::Value* value, const void** data, Shape* shape) {
  ort::TensorInfo* info = nullptr;
  RETURN_IF_FAILED(ort::GetTensorInfo::call(api, value, &info));
  ort::Status* status = ort::GetRank::call(api, info, &shape->rank);
  if (!status && shape->rank > Shape::maxRank) {
    status = failure(api, "Cannot read a tensor of %zu dimensions: at most %zu", shape->rank, Shape::maxRank);
  }
  if (!status) status = ort::GetShape::call(api, info, shape->sizes, shape->rank);
  ort::ReleaseTensorInfo::call(api, info);
  if (status) return status;
  // The accessor takes a non-const value for historical reasons.
  return ort::GetData::call(api, const_cast<ort::Value*>(value), const_cast<void**>(data));
}

namespace {

// The name of an attribute: parts of a chain have a prefix before it.
struct Name {
  Name(const OperatorInfo& info, const char* name) { std::snprintf(text, sizeof(text), "%s%s", info.prefix, name); }
  char text[64];
};

}  // namespace

ort::Status* readConstantValue(const OperatorInfo& info, size_t index, const void** data, Shape* shape) {
  const int64_t input = !info.inputs ? static_cast<int64_t>(index) : index < info.inputCount ? info.inputs[index] : -1;
  int isConstant = 0;
  const ort::Value* value = nullptr;
  if (input >= 0) {
    RETURN_IF_FAILED(ort::GetConstantInput::call(info.api, info.node, static_cast<size_t>(input), &isConstant, &value));
  }
  if (!isConstant || !value) return failure(info.api, "Input %s%zu must be a constant", info.prefix, index);
  return readValue(info.api, value, data, shape);
}

ort::Status* readIntegers(const OperatorInfo& info, const char* name, int64_t* out, size_t capacity, size_t* count) {
  *count = capacity;
  return ort::GetIntsAttribute::call(info.api, info.node, Name(info, name).text, out, count);
}

ort::Status* readInteger(const OperatorInfo& info, const char* name, size_t* out) {
  int64_t value = 0;
  RETURN_IF_FAILED(ort::GetIntAttribute::call(info.api, info.node, Name(info, name).text, &value));
  if (value < 0) {
    return failure(info.api, "Attribute %s%s is %lld: it must not be negative", info.prefix, name,
                   static_cast<long long>(value));
  }
  *out = static_cast<size_t>(value);
  return nullptr;
}

ort::Status* readFloat(const OperatorInfo& info, const char* name, float* out) {
  return ort::GetFloatAttribute::call(info.api, info.node, Name(info, name).text, out);
}

ort::Status* readString(const OperatorInfo& info, const char* name, char* out, size_t capacity) {
  return ort::GetStringAttribute::call(info.api, info.node, Name(info, name).text, out, &capacity);
}

WorkMemory::~WorkMemory() {
  if (!memory_) return;
  if (ort::Status* status = ort::AllocatorFree::call(api_, allocator_, memory_)) ort::ReleaseStatus::call(api_, status);
}

ort::Status* WorkMemory::allocate(size_t bytes, void** aligned) {
  RETURN_IF_FAILED(ort::AllocatorAlloc::call(api_, allocator_, bytes + alignment, &memory_));
  *aligned = reinterpret_cast<void*>(roundUp(reinterpret_cast<uintptr_t>(memory_), alignment));
  return nullptr;
}

}  // namespace espalier

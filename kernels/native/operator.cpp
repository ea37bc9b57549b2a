#include "operator.h"

#include <cstdarg>
#include <cstdio>

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

ort::Status* readIntegers(ort::Api api, const ort::KernelInfo* info, const char* name, int64_t* out, size_t capacity,
                          size_t* count) {
  *count = capacity;
  return ort::GetIntsAttribute::call(api, info, name, out, count);
}

ort::Status* readInteger(ort::Api api, const ort::KernelInfo* info, const char* name, size_t* out) {
  int64_t value = 0;
  RETURN_IF_FAILED(ort::GetIntAttribute::call(api, info, name, &value));
  if (value < 0)
    return failure(api, "Attribute %s is %lld: it must not be negative", name, static_cast<long long>(value));
  *out = static_cast<size_t>(value);
  return nullptr;
}

Parallel threadsOf(ort::Api api, const ort::KernelContext* context, ThreadedRun* run) {
  *run = {api, context};
  return {run, [](void* threads, void (*body)(void*, size_t), size_t total, void* user) {
            const auto* run = static_cast<const ThreadedRun*>(threads);
            ort::Status* status = ort::ParallelFor::call(run->api, run->context, body, total, 0, user);
            if (!status) return;
            // Only a run without threads fails, before it calls anything.
            ort::ReleaseStatus::call(run->api, status);
            for (size_t i = 0; i < total; i++) body(user, i);
          }};
}

WorkMemory::~WorkMemory() {
  if (!memory_) return;
  if (ort::Status* status = ort::AllocatorFree::call(api_, allocator_, memory_)) ort::ReleaseStatus::call(api_, status);
}

ort::Status* WorkMemory::allocate(size_t bytes, void** aligned) {
  constexpr size_t alignment = 64;
  RETURN_IF_FAILED(ort::AllocatorAlloc::call(api_, allocator_, bytes + alignment, &memory_));
  *aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory_) + alignment - 1) / alignment * alignment);
  return nullptr;
}

}  // namespace espalier

// The part of ONNX Runtime's C ABI that operators use, written from its documented layout: no headers are needed, and
// nothing is linked. Handles are incomplete types; only their addresses matter.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;
struct Value;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct Domain;
struct ShapeContext;
struct Allocator;
struct CustomOp;

// The function table. Each entry has a type of its own; `Slot` gives it back.
using Entry = void (*)();
using Api = const Entry*;

struct ApiBase {
  Api (*getApi)(uint32_t version);
  const char* (*getVersion)();
};

template <size_t index, typename Signature>
struct Slot;

template <size_t index, typename Result, typename... Parameters>
struct Slot<index, Result(Parameters...)> {
  static Result call(Api api, Parameters... parameters) {
    return reinterpret_cast<Result (*)(Parameters...)>(api[index])(parameters...);
  }
};

using CreateStatus = Slot<0, Status*(int code, const char* message)>;
using CreateDomain = Slot<26, Status*(const char* name, Domain** out)>;
using AddToDomain = Slot<27, Status*(Domain*, const CustomOp*)>;
using AddDomain = Slot<28, Status*(SessionOptions*, Domain*)>;
using GetData = Slot<51, Status*(Value*, void** out)>;
using GetRank = Slot<61, Status*(const TensorInfo*, size_t* out)>;
using GetShape = Slot<62, Status*(const TensorInfo*, int64_t* out, size_t rank)>;
using GetTensorInfo = Slot<65, Status*(const Value*, TensorInfo** out)>;
using AllocatorAlloc = Slot<75, Status*(Allocator*, size_t bytes, void** out)>;
using AllocatorFree = Slot<76, Status*(Allocator*, void*)>;
using GetFloatAttribute = Slot<85, Status*(const KernelInfo*, const char* name, float* out)>;
using GetIntAttribute = Slot<86, Status*(const KernelInfo*, const char* name, int64_t* out)>;
using GetStringAttribute = Slot<87, Status*(const KernelInfo*, const char* name, char* out, size_t* size)>;
using GetInput = Slot<90, Status*(const KernelContext*, size_t index, const Value** out)>;
using GetOutput = Slot<91, Status*(KernelContext*, size_t index, const int64_t* shape, size_t rank, Value** out)>;
using ReleaseStatus = Slot<93, void(Status*)>;
using ReleaseTensorInfo = Slot<99, void(TensorInfo*)>;
using ReleaseAllocator = Slot<132, void(Allocator*)>;
using GetIntsAttribute = Slot<163, Status*(const KernelInfo*, const char* name, int64_t* out, size_t* count)>;
using GetStream = Slot<193, Status*(const KernelContext*, void** out)>;
using GetInputCount = Slot<230, Status*(const KernelInfo*, size_t* out)>;
using GetConstantInput = Slot<249, Status*(const KernelInfo*, size_t index, int* isConstant, const Value** out)>;
using ParallelFor = Slot<274, Status*(const KernelContext*, void (*body)(void* user, size_t index), size_t total,
                                      size_t batches, void* user)>;
using GetAllocator = Slot<278, Status*(const KernelInfo*, int memoryType, Allocator** out)>;

constexpr int failed = 1;
constexpr int invalidArgument = 2;

enum ElementType : int { anyType = 0, float32 = 1, uint8 = 2, int32 = 6, int64 = 7, float16 = 10 };

enum MemoryType : int { cpuMemory = -2, ownMemory = 0 };

enum Presence : int { required = 0, optional = 1, variadic = 2 };

// One operator for one provider. The order of the fields is the ABI. `version` says how many of them are valid.
struct CustomOp {
  uint32_t version;
  void* (*createKernel)(const CustomOp*, Api, const KernelInfo*);
  const char* (*getName)(const CustomOp*);
  const char* (*getProvider)(const CustomOp*);
  ElementType (*getInputType)(const CustomOp*, size_t index);
  size_t (*getInputCount)(const CustomOp*);
  ElementType (*getOutputType)(const CustomOp*, size_t index);
  size_t (*getOutputCount)(const CustomOp*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroyKernel)(void* kernel);
  Presence (*getInputPresence)(const CustomOp*, size_t index);
  Presence (*getOutputPresence)(const CustomOp*, size_t index);
  MemoryType (*getInputMemory)(const CustomOp*, size_t index);
  int (*getVariadicInputMinimum)(const CustomOp*);
  int (*getVariadicInputSameType)(const CustomOp*);
  int (*getVariadicOutputMinimum)(const CustomOp*);
  int (*getVariadicOutputSameType)(const CustomOp*);
  Status* (*createKernelV2)(const CustomOp*, Api, const KernelInfo*, void** kernel);
  Status* (*computeV2)(void* kernel, KernelContext*);
  Status* (*inferShape)(const CustomOp*, ShapeContext*);
  int (*getStartVersion)(const CustomOp*);
  int (*getEndVersion)(const CustomOp*);
  size_t (*getMayInplace)(int** inputs, int** outputs);
  void (*releaseMayInplace)(int* inputs, int* outputs);
  size_t (*getAliases)(int** inputs, int** outputs);
  void (*releaseAliases)(int* inputs, int* outputs);
};
static_assert(sizeof(void*) == 8 && offsetof(CustomOp, createKernel) == 8);
static_assert(offsetof(CustomOp, getInputMemory) == 96 && offsetof(CustomOp, createKernelV2) == 136);
static_assert(sizeof(CustomOp) == 208);

// The newest part of the API in use: ParallelFor and `computeV2` came with version 17.
constexpr uint32_t apiVersion = 17;

}  // namespace ort

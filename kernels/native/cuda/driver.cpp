#include "driver.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <mutex>

#include "module.h"

namespace espalier::cuda {
namespace {

// The driver's types as its ABI has them; handles are addresses.
using Result = int;
constexpr Result notFound = 500;
constexpr int maxDynamicShared = 8;                      // of function attributes
constexpr int attributeMultiprocessors = 16;             // of device attributes
constexpr int attributeMajor = 75, attributeMinor = 76;  // the same
constexpr int attributeSharedBytesOptIn = 97;            // the same
constexpr Result noKernelsForDevice = 209;
constexpr unsigned programmaticStreamSerialization = 6;  // of launch attributes

struct LaunchAttribute {
  unsigned id;
  unsigned padding;
  union {
    int enabled;
    char bytes[64];
  } value;
};
static_assert(sizeof(LaunchAttribute) == 72);

struct LaunchConfig {
  unsigned gridX, gridY, gridZ;
  unsigned blockX, blockY, blockZ;
  unsigned sharedBytes;
  Stream* stream;
  LaunchAttribute* attributes;
  unsigned attributeCount;
};
static_assert(offsetof(LaunchConfig, stream) == 32 && offsetof(LaunchConfig, attributeCount) == 48);

struct EntryPoints {
  Result (*init)(unsigned flags);
  Result (*getErrorString)(Result, const char** out);
  Result (*getDevice)(int* out, int ordinal);
  Result (*getContext)(void** out);
  Result (*retainPrimaryContext)(void** out, int device);
  Result (*setContext)(void*);
  Result (*getContextDevice)(int* out);
  Result (*getDeviceAttribute)(int* out, int attribute, int device);
  Result (*loadModule)(void** out, const void* image);
  Result (*getFunction)(Function** out, void* module, const char* name);
  Result (*setFunctionAttribute)(const Function*, int attribute, int value);
  Result (*allocate)(void** out, size_t bytes);
  Result (*release)(void*);
  Result (*copyToDevice)(void*, const void*, size_t bytes);
  Result (*launchKernel)(const LaunchConfig*, const Function*, void** parameters, void** extra);
};

// Trivially destroyed, all of them: the process may end while the runtime holds our structs.
std::mutex mutex;
EntryPoints driver;
Device device;
void* modules[16];
size_t moduleCount = 0;
void* usedContext = nullptr;
char message[256];

const char* failed(const char* what, Result result) {
  const char* text = nullptr;
  if (driver.getErrorString) driver.getErrorString(result, &text);
  std::snprintf(message, sizeof(message), "Cannot %s: CUDA reports %d (%s)", what, result, text ? text : "unknown");
  return message;
}

const char* loadDriver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (!library) return "Cannot load libcuda.so.1: NVIDIA's driver is not installed";
  struct {
    const char* name;
    void** out;
  } const symbols[] = {
      {"cuInit", reinterpret_cast<void**>(&driver.init)},
      {"cuGetErrorString", reinterpret_cast<void**>(&driver.getErrorString)},
      {"cuDeviceGet", reinterpret_cast<void**>(&driver.getDevice)},
      {"cuCtxGetCurrent", reinterpret_cast<void**>(&driver.getContext)},
      {"cuDevicePrimaryCtxRetain", reinterpret_cast<void**>(&driver.retainPrimaryContext)},
      {"cuCtxSetCurrent", reinterpret_cast<void**>(&driver.setContext)},
      {"cuCtxGetDevice", reinterpret_cast<void**>(&driver.getContextDevice)},
      {"cuDeviceGetAttribute", reinterpret_cast<void**>(&driver.getDeviceAttribute)},
      {"cuModuleLoadData", reinterpret_cast<void**>(&driver.loadModule)},
      {"cuModuleGetFunction", reinterpret_cast<void**>(&driver.getFunction)},
      {"cuFuncSetAttribute", reinterpret_cast<void**>(&driver.setFunctionAttribute)},
      {"cuMemAlloc_v2", reinterpret_cast<void**>(&driver.allocate)},
      {"cuMemFree_v2", reinterpret_cast<void**>(&driver.release)},
      {"cuMemcpyHtoD_v2", reinterpret_cast<void**>(&driver.copyToDevice)},
      {"cuLaunchKernelEx", reinterpret_cast<void**>(&driver.launchKernel)},
  };
  for (const auto& symbol : symbols) {
    *symbol.out = dlsym(library, symbol.name);
    if (*symbol.out) continue;
    std::snprintf(message, sizeof(message), "Cannot use libcuda.so.1: it has no %s (CUDA 11.8 or later is needed)",
                  symbol.name);
    return message;
  }
  return nullptr;
}

const char* openModule() {
  if (const char* error = loadDriver()) return error;
  if (const Result result = driver.init(0)) return failed("start CUDA", result);
  void* context = nullptr;
  if (const Result result = driver.getContext(&context)) return failed("find the current context", result);
  int ordinal = 0;
  if (!context) {
    if (const Result result = driver.getDevice(&ordinal, 0)) return failed("find a device", result);
    if (const Result result = driver.retainPrimaryContext(&context, ordinal)) return failed("open the device", result);
    if (const Result result = driver.setContext(context)) return failed("use the device", result);
  } else if (const Result result = driver.getContextDevice(&ordinal)) {
    return failed("find the context's device", result);
  }
  int major = 0, minor = 0, sharedBytes = 0;
  struct {
    int attribute;
    int* out;
  } const attributes[] = {{attributeMajor, &major},
                          {attributeMinor, &minor},
                          {attributeMultiprocessors, &device.multiprocessors},
                          {attributeSharedBytesOptIn, &sharedBytes}};
  for (const auto& attribute : attributes) {
    if (const Result result = driver.getDeviceAttribute(attribute.out, attribute.attribute, ordinal)) {
      return failed("ask the device", result);
    }
  }
  device.computeCapability = 10 * major + minor;
  device.sharedBytesPerBlock = static_cast<size_t>(sharedBytes);
  usedContext = context;
  size_t loaded = 0;
  for (const void* image = nextKernels(nullptr); image; image = nextKernels(image)) {
    if (loaded == sizeof(modules) / sizeof(modules[0])) return "Cannot load our kernels: they are in too many files";
    const Result result = driver.loadModule(&modules[loaded], image);
    if (result == noKernelsForDevice) continue;  // a file may be for other devices alone
    if (result) return failed("load our kernels", result);
    loaded++;
  }
  if (loaded == 0) {
    std::snprintf(message, sizeof(message), "Cannot use our kernels: none were built for compute capability %d.%d",
                  major, minor);
    return message;
  }
  moduleCount = loaded;
  return nullptr;
}

// Threads that the runtime did not start, such as the one that closes a session, have no context yet.
const char* useContext() {
  void* current = nullptr;
  if (const Result result = driver.getContext(&current)) return failed("find the current context", result);
  if (current) return nullptr;
  const Result result = driver.setContext(usedContext);
  return result ? failed("use the device", result) : nullptr;
}

}  // namespace

const char* openDevice(const Device** out) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (!moduleCount) {
    if (const char* error = openModule()) return error;
  }
  *out = &device;
  return nullptr;
}

const char* findFunction(const char* name, size_t sharedBytes, const Function** out) {
  const Device* opened = nullptr;
  if (const char* error = openDevice(&opened)) return error;
  Function* function = nullptr;
  Result found = notFound;
  for (size_t i = 0; i < moduleCount && found == notFound; i++) {
    found = driver.getFunction(&function, modules[i], name);
  }
  if (found) return failed(name, found);
  if (const Result result = driver.setFunctionAttribute(function, maxDynamicShared, static_cast<int>(sharedBytes))) {
    return failed("set a kernel's shared memory", result);
  }
  *out = function;
  return nullptr;
}

const char* upload(const void* host, size_t bytes, void** out) {
  const Device* opened = nullptr;
  if (const char* error = openDevice(&opened)) return error;
  if (const char* error = useContext()) return error;
  void* memory = nullptr;
  if (const Result result = driver.allocate(&memory, bytes)) return failed("allocate device memory", result);
  if (const Result result = driver.copyToDevice(memory, host, bytes)) {
    driver.release(memory);
    return failed("copy to the device", result);
  }
  *out = memory;
  return nullptr;
}

void release(void* memory) {
  // Neither can be reported from a destructor; a lost context has lost its memory too.
  if (memory && !useContext()) driver.release(memory);
}

const char* launch(const Launch& launch, Stream* stream, const void* parameters) {
  LaunchAttribute attribute{};
  attribute.id = programmaticStreamSerialization;
  attribute.value.enabled = 1;
  LaunchConfig config{};
  config.gridX = launch.grid.x, config.gridY = launch.grid.y, config.gridZ = launch.grid.z;
  config.blockX = launch.threads, config.blockY = 1, config.blockZ = 1;
  config.sharedBytes = static_cast<unsigned>(launch.sharedBytes);
  config.stream = stream;
  config.attributes = &attribute;
  config.attributeCount = launch.early && device.computeCapability >= 90 ? 1 : 0;
  void* arguments[] = {const_cast<void*>(parameters)};
  const Result result = driver.launchKernel(&config, launch.function, arguments, nullptr);
  return result ? failed("launch a kernel", result) : nullptr;
}

}  // namespace espalier::cuda

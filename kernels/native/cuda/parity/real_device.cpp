// Checks on the first CUDA device, with kernels from the embedded module.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "device.h"

namespace espalier::cuda {
namespace {

class RealDevice final : public CheckedDevice {
 public:
  RealDevice() {
    if (const char* error = openDevice(&device_)) fail(error);
    library_ = dlopen("libcuda.so.1", RTLD_NOW);
    std::printf("Device of compute capability %d, %d multiprocessors\n", device_->computeCapability,
                device_->multiprocessors);
  }

  int multiprocessors() const override { return device_->multiprocessors; }

  int computeCapability() const override { return device_->computeCapability; }

  void* allocate(size_t bytes) override {
    void* block = nullptr;
    call("cuMemAlloc_v2", &block, bytes ? bytes : 1);
    return block;
  }
  void release(void* block) override { call("cuMemFree_v2", block); }
  void toDevice(void* device, const void* host, size_t bytes) override {
    if (bytes) call("cuMemcpyHtoD_v2", device, host, bytes);
  }
  void toHost(void* host, const void* device, size_t bytes) override {
    if (bytes) call("cuMemcpyDtoH_v2", host, device, bytes);
  }

  void launch(const char* kernel, Grid grid, unsigned threads, size_t sharedBytes, const void* parameters,
              size_t) override {
    const Function* function = nullptr;
    if (const char* error = findFunction(kernel, sharedBytes, &function)) fail(error);
    if (const char* error = cuda::launch({function, grid, threads, sharedBytes, true}, nullptr, parameters))
      fail(error);
  }

 private:
  [[noreturn]] static void fail(const char* message) {
    std::printf("%s\n", message);
    std::exit(2);
  }

  template <typename... Arguments>
  void call(const char* name, Arguments... arguments) {
    const auto entry = reinterpret_cast<int (*)(Arguments...)>(dlsym(library_, name));
    const int result = entry ? entry(arguments...) : -1;
    if (result == 0) return;
    std::printf("%s: %d\n", name, result);
    std::exit(2);
  }

  const Device* device_ = nullptr;
  void* library_ = nullptr;
};

}  // namespace

CheckedDevice& checkedDevice() {
  static RealDevice device;
  return device;
}

}  // namespace espalier::cuda

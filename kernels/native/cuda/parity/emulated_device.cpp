// Checks on this processor, lane by lane. Compiled, as the kernels are, with `-include emulation.h`.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../embedding.h"
#include "../lane_attention.h"
#include "../lane_scan.h"
#include "../likeliest.h"
#include "../prefix_product.h"
#include "../step_plan.h"
#include "device.h"

namespace espalier::cuda {

#define KERNEL(name, Parameters) extern "C" void name(const Parameters);
#define PAIR_KERNEL KERNEL
#include "kernels.inc"
#undef PAIR_KERNEL
#undef KERNEL

namespace {

struct Kernel {
  const char* name;
  size_t parameterBytes;
  void (*call)(const void*);
  unsigned clusterBlocks;
};

const Kernel kernels[] = {
#define CLUSTER_KERNEL(name, Parameters, blocks) \
  {#name, sizeof(Parameters), [](const void* p) { name(*static_cast<const Parameters*>(p)); }, blocks},
#define KERNEL(name, Parameters) CLUSTER_KERNEL(name, Parameters, 1)
#define PAIR_KERNEL(name, Parameters) CLUSTER_KERNEL(name, Parameters, 2)
#include "kernels.inc"
#undef PAIR_KERNEL
#undef KERNEL
#undef CLUSTER_KERNEL
};

class EmulatedDevice final : public CheckedDevice {
 public:
  int multiprocessors() const override { return 132; }
  int computeCapability() const override { return 90; }

  void* allocate(size_t bytes) override {
    constexpr size_t alignment = 256;
    void* block = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
    if (!block) fail("memory", "there is none");
    return block;
  }
  void release(void* block) override { std::free(block); }
  void toDevice(void* device, const void* host, size_t bytes) override {
    if (bytes) std::memcpy(device, host, bytes);
  }
  void toHost(void* host, const void* device, size_t bytes) override {
    if (bytes) std::memcpy(host, device, bytes);
  }

  void launch(const char* kernel, Grid grid, unsigned threads, size_t sharedBytes, const void* parameters,
              size_t parameterBytes) override {
    for (const Kernel& known : kernels) {
      if (std::strcmp(known.name, kernel) != 0) continue;
      if (known.parameterBytes != parameterBytes) fail(kernel, "its parameters have another size");
      return emulation::launch(kernel, known.call, {grid.x, grid.y, grid.z}, {threads, 1, 1}, sharedBytes, parameters,
                               known.clusterBlocks);
    }
    fail(kernel, "there is no such kernel");
  }

 private:
  [[noreturn]] static void fail(const char* what, const char* reason) {
    std::printf("Cannot have %s: %s\n", what, reason);
    std::exit(2);
  }
};

}  // namespace

CheckedDevice& checkedDevice() {
  static EmulatedDevice device;
  return device;
}

}  // namespace espalier::cuda

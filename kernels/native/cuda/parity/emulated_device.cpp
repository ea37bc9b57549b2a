// Runs kernels on the emulation. Compiled, as they are, with `-include emulation.h`.
#include "../lane_attention.h"
#include "../step_plan.h"
#include "device.h"

namespace espalier::cuda {

#define KERNEL(name, Parameters) extern "C" void name(const Parameters);
#include "kernels.inc"
#undef KERNEL

namespace {

struct Kernel {
  const char* name;
  size_t parameterBytes;
  void (*call)(const void*);
};

const Kernel kernels[] = {
#define KERNEL(name, Parameters) \
  {#name, sizeof(Parameters), [](const void* p) { name(*static_cast<const Parameters*>(p)); }},
#include "kernels.inc"
#undef KERNEL
};

[[noreturn]] void refuse(const char* kernel, const char* reason) {
  std::fprintf(stderr, "Cannot launch %s: %s\n", kernel, reason);
  std::exit(3);
}

}  // namespace

const char* deviceName() { return "emulation"; }

void launchKernel(const char* kernel, Grid grid, unsigned threads, size_t sharedBytes, const void* parameters,
                  size_t parameterBytes) {
  for (const Kernel& known : kernels) {
    if (std::strcmp(known.name, kernel) != 0) continue;
    if (known.parameterBytes != parameterBytes) refuse(kernel, "its parameters have another size");
    return emulation::launch(kernel, known.call, {grid.x, grid.y, grid.z}, {threads, 1, 1}, sharedBytes, parameters);
  }
  refuse(kernel, "there is no such kernel");
}

void* allocateDevice(size_t bytes) {
  void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!memory) refuse("anything", "there is no memory");
  return memory;
}

void freeDevice(void* memory) { std::free(memory); }
void upload(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void download(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

}  // namespace espalier::cuda

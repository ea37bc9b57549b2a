#include "module.h"

#include <cstdint>

#ifndef ESPALIER_FATBIN
#error "ESPALIER_FATBIN must be the path of the compiled kernels, in quotes"
#endif

asm(".section .rodata\n"
    ".balign 64\n"
    "espalier_kernels:\n"
    ".incbin \"" ESPALIER_FATBIN
    "\"\n"
    "espalier_kernels_end:\n"
    ".byte 0\n"
    ".previous\n");

extern "C" const char espalier_kernels[] __attribute__((visibility("hidden")));
extern "C" const char espalier_kernels_end[] __attribute__((visibility("hidden")));

namespace espalier::cuda {
namespace {

struct FatBinaryHeader {
  uint32_t magic;
  uint16_t version, headerBytes;
  uint64_t bytes;  // behind the header
};
static_assert(sizeof(FatBinaryHeader) == 16);

}  // namespace

const void* nextKernels(const void* before) {
  const char* next = espalier_kernels;
  if (before) {
    const auto* header = static_cast<const FatBinaryHeader*>(before);
    next = static_cast<const char*>(before) + header->headerBytes + header->bytes;
  }
  return next < espalier_kernels_end ? next : nullptr;
}

}  // namespace espalier::cuda

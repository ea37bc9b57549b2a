#include "module.h"

#ifndef ESPALIER_FATBIN
#error "ESPALIER_FATBIN must be the path of the compiled kernels, in quotes"
#endif

asm(".section .rodata\n"
    ".balign 64\n"
    "espalier_fatbin:\n"
    ".incbin " ESPALIER_FATBIN
    "\n"
    ".byte 0\n"
    ".previous\n");

extern "C" const char espalier_fatbin[] __attribute__((visibility("hidden")));

namespace espalier::cuda {

const void* embeddedKernels() { return espalier_fatbin; }

}  // namespace espalier::cuda

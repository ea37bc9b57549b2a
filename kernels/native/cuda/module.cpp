#include "module.h"

#ifndef ESPALIER_IMAGES
#error "ESPALIER_IMAGES must be the path, in quotes, of a file of lines IMAGE(\"number\", \"path of an image\")"
#endif

// clang-format off
asm(".section .rodata\n"
#define IMAGE(number, path) ".balign 64\nespalier_image_" number ":\n.incbin \"" path "\"\n"
#include ESPALIER_IMAGES
#undef IMAGE
    ".section .data.rel.ro, \"aw\"\n"
    ".balign 8\n"
    "espalier_images:\n"
#define IMAGE(number, path) ".quad espalier_image_" number "\n"
#include ESPALIER_IMAGES
#undef IMAGE
    ".quad 0\n"
    ".previous\n"
    ".previous\n");
// clang-format on

extern "C" const void* const espalier_images[] __attribute__((visibility("hidden")));

namespace espalier::cuda {

const void* const* embeddedImages() { return espalier_images; }

}  // namespace espalier::cuda

// AVX2 with the dot products of AVX-512 VNNI in registers of 256 bits: Intel's small cores since Alder Lake.
#include "routines_ymm.h"

namespace espalier {
namespace {

constexpr size_t rowsAtOnce = 5;

bool supported() {
  constexpr unsigned avxVnni = 1u << 4;  // clang 14 has no name for it
  unsigned a, b, c, d;
  return supportsAvx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & avxVnni);
}

// Sums of 32 bits go on through a block.
struct Dots {
  static __m256i begin(__m256i dots) { return dots; }
  static __m256i add(__m256i sums, __m256i weights, __m256i activations) {
    return _mm256_dpbusd_avx_epi32(sums, weights, activations);
  }
  static __m256i end(__m256i, __m256i sums) { return sums; }
};

}  // namespace

extern const Routines avxvnniRoutines;
const Routines avxvnniRoutines = {
    "avxvnni",
    {fewRows, Layout::eights, multiplyOneByOne<multiplyTile<Dots, rowsAtOnce>>},
    {2 * rowsAtOnce, Layout::eights, multiplyOneByOne<multiplyTile<Dots, rowsAtOnce>>},
    supported,
    quantizeRow,
    normalizeRowGeneric,
    gateGeneric,
    rotateHeadGeneric,
    toHalvesWith<Simd>,
    attendWith<Simd>,
    joinGeneric,
    convolveGeneric,
    scanWith<Simd>,
};

}  // namespace espalier

// AVX2 with FMA and F16C.
#include "routines_ymm.h"

namespace espalier {
namespace {

constexpr size_t rowsAtOnce = 4;

// Sixteen-bit sums of 32 columns stay in range: 16 products of at most 15 * 127.
struct Dots {
  static __m256i begin(__m256i) { return _mm256_setzero_si256(); }
  static __m256i add(__m256i sums, __m256i weights, __m256i activations) {
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(weights, activations));
  }
  static __m256i end(__m256i dots, __m256i sums) {
    return _mm256_add_epi32(dots, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
  }
};

}  // namespace

extern const Routines avx2Routines;
const Routines avx2Routines = {
    "avx2",
    {fewRows, Layout::eights, multiplyOneByOne<multiplyTile<Dots, rowsAtOnce>>},
    {2 * rowsAtOnce, Layout::eights, multiplyOneByOne<multiplyTile<Dots, rowsAtOnce>>},
    supportsAvx2,
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

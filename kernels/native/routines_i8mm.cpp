// arm64 with the int8 matrix instructions (Armv8.6; Jetson Thor): two activation rows against two output rows at once.
#include <sys/auxv.h>

#include "routines_neon.h"

namespace espalier {
namespace {

bool supported() {
  constexpr unsigned long dotProduct = 1ul << 20;      // HWCAP_ASIMDDP
  constexpr unsigned long matrixMultiply = 1ul << 13;  // HWCAP2_I8MM
  return (getauxval(AT_HWCAP) & dotProduct) != 0 && (getauxval(AT_HWCAP2) & matrixMultiply) != 0;
}

// Pairs of rows. Each product holds rows a, b against outputs i, i + 1: [a·i, a·(i+1), b·i, b·(i+1)].
template <size_t pairs>
void multiplyPairs(const TileProduct& p) {
  const uint8x16_t low = vdupq_n_u8(15);
  const uint8_t* codes = p.weights;
  const int8_t* activations = p.activations;
  for (size_t block = 0; block < p.blocks; block++) {
    const uint16_t* scales = beginBlock(p, block, &codes);
    __builtin_prefetch(wantedSoon(p, scales));
    int32x4_t products[pairs][2 * quarters];
    for (size_t pair = 0; pair < pairs; pair++) {
      const int32x2_t first = vdup_n_s32(p.offsets[block * p.groupRows + 2 * pair]);
      const int32x2_t second = vdup_n_s32(p.offsets[block * p.groupRows + 2 * pair + 1]);
      for (int32x4_t& product : products[pair]) product = vcombine_s32(first, second);
    }
    for (size_t column = 0; column < p.blockSize; column += 8, codes += 64, activations += 8 * p.groupRows) {
      __builtin_prefetch(wantedSoon(p, codes));
      int8x16_t values[pairs];
      for (size_t pair = 0; pair < pairs; pair++) values[pair] = vld1q_s8(activations + 16 * pair);
      for (size_t q = 0; q < quarters; q++) {
        const uint8x16_t packed = vld1q_u8(codes + 16 * q);
        const uint32x4_t even = vreinterpretq_u32_u8(vandq_u8(packed, low));
        const uint32x4_t odd = vreinterpretq_u32_u8(vshrq_n_u8(packed, 4));
        const int8x16_t outputs01 = vreinterpretq_s8_u32(vzip1q_u32(even, odd));
        const int8x16_t outputs23 = vreinterpretq_s8_u32(vzip2q_u32(even, odd));
        for (size_t pair = 0; pair < pairs; pair++) {
          products[pair][2 * q] = vmmlaq_s32(products[pair][2 * q], values[pair], outputs01);
          products[pair][2 * q + 1] = vmmlaq_s32(products[pair][2 * q + 1], values[pair], outputs23);
        }
      }
    }
    for (size_t pair = 0; pair < pairs; pair++) {
      int32x4_t first[quarters];
      int32x4_t second[quarters];
      for (size_t q = 0; q < quarters; q++) {
        const int32x4_t left = products[pair][2 * q];
        const int32x4_t right = products[pair][2 * q + 1];
        first[q] = vcombine_s32(vget_low_s32(left), vget_low_s32(right));
        second[q] = vcombine_s32(vget_high_s32(left), vget_high_s32(right));
      }
      const float* activationScales = p.activationScales + block * p.groupRows + 2 * pair;
      addScaled(p.sums + 2 * pair * tileRows, first, scales, activationScales[0]);
      addScaled(p.sums + (2 * pair + 1) * tileRows, second, scales, activationScales[1]);
    }
  }
}

void multiplyTile(const TileProduct& p, size_t rows) {
  size_t done = 0;
  for (; rows - done >= 4; done += 4) multiplyPairs<2>(skipRows(p, done));
  if (rows - done >= 2) {
    multiplyPairs<1>(skipRows(p, done));
    done += 2;
  }
  if (rows - done == 1) multiplyByDots<1>(skipRows(p, done));
}

}  // namespace

extern const Routines i8mmRoutines;
const Routines i8mmRoutines = {
    "i8mm",
    {fewRows, Layout::eights, multiplyOneByOne<multiplyTile>},
    {fewRows, Layout::eights, multiplyOneByOne<multiplyTile>},
    supported,
    quantizeRowGeneric,
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

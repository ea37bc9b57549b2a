// What the two arm64 instruction sets share.
#pragma once

#include <arm_neon.h>

#include "attention_loops.h"
#include "scan_loops.h"

namespace espalier {
namespace {

constexpr size_t quarters = 4;  // registers of a tile

inline void addScaled(float* sums, const int32x4_t* dots, const uint16_t* scales, float activationScale) {
  for (size_t q = 0; q < quarters; q++) {
    const float32x4_t scale =
        vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(scales + 4 * q))), activationScale);
    vst1q_f32(sums + 4 * q, vfmaq_f32(vld1q_f32(sums + 4 * q), vcvtq_f32_s32(dots[q]), scale));
  }
}

// Up to four rows with the dot product instruction.
template <size_t rows>
void multiplyByDots(const TileProduct& p) {
  const uint8x16_t low = vdupq_n_u8(15);
  const uint8_t* codes = p.weights;
  const int8_t* activations = p.activations;
  for (size_t block = 0; block < p.blocks; block++) {
    const uint16_t* scales = beginBlock(p, block, &codes);
    __builtin_prefetch(wantedSoon(p, scales));
    int32x4_t dots[rows][quarters];
    for (size_t r = 0; r < rows; r++) {
      for (size_t q = 0; q < quarters; q++) dots[r][q] = vdupq_n_s32(p.offsets[block * p.groupRows + r]);
    }
    for (size_t column = 0; column < p.blockSize; column += 8, codes += 64, activations += 8 * p.groupRows) {
      __builtin_prefetch(wantedSoon(p, codes));
      int8x8_t eight[rows];
      for (size_t r = 0; r < rows; r++) eight[r] = vld1_s8(activations + 8 * r);
      for (size_t q = 0; q < quarters; q++) {
        const uint8x16_t packed = vld1q_u8(codes + 16 * q);
        const int8x16_t even = vreinterpretq_s8_u8(vandq_u8(packed, low));
        const int8x16_t odd = vreinterpretq_s8_u8(vshrq_n_u8(packed, 4));
        for (size_t r = 0; r < rows; r++) {
          dots[r][q] = vdotq_lane_s32(dots[r][q], even, eight[r], 0);
          dots[r][q] = vdotq_lane_s32(dots[r][q], odd, eight[r], 1);
        }
      }
    }
    for (size_t r = 0; r < rows; r++) {
      addScaled(p.sums + r * tileRows, dots[r], scales, p.activationScales[block * p.groupRows + r]);
    }
  }
}

inline TileProduct skipRows(TileProduct p, size_t rows) {
  p.activations += 8 * rows;
  p.activationScales += rows;
  p.offsets += rows;
  p.sums += rows * tileRows;
  return p;
}

struct Simd {
  using Vector = float32x4_t;
  static constexpr size_t lanes = 4, vectors = 4;
  static Vector zero() { return vdupq_n_f32(0); }
  static Vector broadcast(float value) { return vdupq_n_f32(value); }
  static Vector load(const float* from) { return vld1q_f32(from); }
  static Vector loadFew(const float* from, size_t count) {
    float four[lanes] = {};
    std::memcpy(four, from, count * sizeof(float));
    return vld1q_f32(four);
  }
  static Vector loadHalves(const Half* from) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))); }
  static Vector loadFewHalves(const Half* from, size_t count) {
    Half four[lanes] = {};
    std::memcpy(four, from, count * sizeof(Half));
    return loadHalves(four);
  }
  static void store(float* to, Vector value) { vst1q_f32(to, value); }
  static void storeHalves(Half* to, Vector value) { vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(value))); }
  static void storeFew(float* to, Vector value, size_t count) {
    float four[lanes];
    vst1q_f32(four, value);
    std::memcpy(to, four, count * sizeof(float));
  }
  static Vector multiplyAdd(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
};

}  // namespace
}  // namespace espalier

// Loops that the compiler turns into the instructions of the including file: lanes of 16 floats, no branches inside.
// Everything has internal linkage, so that every instruction set keeps its own.
#pragma once

#include <cmath>
#include <cstring>

#include "tile_layout.h"

namespace espalier {
namespace {

constexpr size_t lanes = 16;

[[maybe_unused]] inline size_t tileBytes(const TileProduct& p) { return tileBytes(p.blocks, p.blockSize); }

// The block behind a pair that begins with this one.
[[maybe_unused]] inline size_t pairEnd(const TileProduct& p, size_t block) {
  return block + 2 < p.blocks ? block + 2 : p.blocks;
}

// Goes on to a block: puts `at`, the end of the one before, to its codes, and gives its scales.
[[maybe_unused]] inline const uint16_t* beginBlock(const TileProduct& p, size_t block, const uint8_t** at) {
  if (block % 2 == 0) *at += scaleLine;
  const uint8_t* line = *at - scaleLine - block % 2 * codeBytes(p.blockSize);
  return reinterpret_cast<const uint16_t*>(line) + block % 2 * tileRows;
}

// The weights to ask memory for while those at `at` are used: past the end of all tiles, what is wanted next.
template <typename Weight>
[[maybe_unused]] inline const uint8_t* wantedSoon(const TileProduct& p, const Weight* at) {
  const uint8_t* ahead = reinterpret_cast<const uint8_t*>(at) + prefetchBytes;
  return ahead < p.weights + p.tiles * tileBytes(p) ? ahead : ahead + p.skipped;
}

// One tile of several, on the way through them one after another.
[[maybe_unused]] inline TileProduct tileOf(TileProduct p, size_t tile) {
  p.weights += tile * tileBytes(p);
  p.sums += tile * p.groupRows * tileRows;
  if (tile + 1 < p.tiles) p.skipped = 0;
  p.tiles = 1;
  return p;
}

// `multiplyTiles` of instruction sets that gain nothing from several at once.
template <void (*multiplyTile)(const TileProduct&, size_t rows)>
void multiplyOneByOne(const TileProduct& p, size_t rows) {
  for (size_t tile = 0; tile < p.tiles; tile++) multiplyTile(tileOf(p, tile), rows);
}

[[maybe_unused]] float halfToFloat(uint16_t half) {
  // Shifts the exponent into place and scales; subnormal halves come out right because the product is exact.
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float magnitude;
  std::memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f;
  return half & 0x8000 ? -magnitude : magnitude;
}

// As `halfToFloat`, but infinity stays infinity and what is no number stays none: scales are neither.
[[maybe_unused]] inline float anyHalfToFloat(Half half) {
  if ((half & 0x7c00) != 0x7c00) return halfToFloat(half);
  const uint32_t bits = (half & 0x8000u) << 16 | 0x7f800000u | (half & 0x3ffu) << 13;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

[[maybe_unused]] inline Half floatToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<Half>(sign | 0x7e00);   // no number
  if (bits >= 0x477ff000) return static_cast<Half>(sign | 0x7c00);  // from halfway beyond the greatest on
  if (bits < 0x38800000) {
    // A step of subnormal halves is one of floats from 0.5 on: the sum is rounded as it must be.
    float sum;
    std::memcpy(&sum, &bits, 4);
    sum += 0.5f;
    std::memcpy(&bits, &sum, 4);
    return static_cast<Half>(sign | (bits - 0x3f000000));
  }
  return static_cast<Half>(sign | (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

// Sums sixteen lanes in a fixed order.
[[maybe_unused]] float sumLanes(const float* values) {
  float sums[8];
  for (size_t i = 0; i < 8; i++) sums[i] = values[i] + values[i + 8];
  for (size_t i = 0; i < 4; i++) sums[i] += sums[i + 4];
  for (size_t i = 0; i < 2; i++) sums[i] += sums[i + 2];
  return sums[0] + sums[1];
}

[[maybe_unused]] void normalizeRowGeneric(const float* x, const float* weight, size_t columns, float epsilon,
                                          float* y) {
  float squares[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= columns; i += lanes) {
    for (size_t j = 0; j < lanes; j++) squares[j] += x[i + j] * x[i + j];
  }
  for (; i < columns; i++) squares[0] += x[i] * x[i];
  const float inverse = 1.0f / std::sqrt(sumLanes(squares) / static_cast<float>(columns) + epsilon);
  for (i = 0; i < columns; i++) y[i] = x[i] * inverse * weight[i];
}

// exp by 2^n times a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2]: relative error below 2e-7.
inline __attribute__((always_inline)) float exponential(float x) {
  const float bounded = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float shifted = bounded * 1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
  const float n = shifted - 12582912.0f;
  const float r = (bounded - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t exponent;
  std::memcpy(&exponent, &shifted, 4);
  const uint32_t power = (static_cast<uint32_t>(exponent) + 127u) << 23;
  float scale;
  std::memcpy(&scale, &power, 4);
  return p * scale;
}

[[maybe_unused]] void gateGeneric(const float* gate, const float* up, size_t count, float* y) {
  for (size_t i = 0; i < count; i++) y[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

[[maybe_unused]] void rotateHeadGeneric(const float* x, const float* cosines, const float* sines, size_t width,
                                        float scale, float* y) {
  if (!cosines) {
    for (size_t i = 0; i < width; i++) y[i] = scale * x[i];
    return;
  }
  for (size_t pair = 0; pair < width / 2; pair++) {
    const float first = scale * x[2 * pair], second = scale * x[2 * pair + 1];
    y[2 * pair] = first * cosines[pair] - second * sines[pair];
    y[2 * pair + 1] = first * sines[pair] + second * cosines[pair];
  }
}

[[maybe_unused]] void convolveGeneric(const float* const* inputs, const float* weights, size_t weightStride,
                                      const float* bias, size_t taps, size_t channels, float* y) {
  for (size_t start = 0; start < channels; start += lanes) {
    const size_t count = channels - start < lanes ? channels - start : lanes;
    float sums[lanes] = {};
    if (bias) std::memcpy(sums, bias + start, count * sizeof(float));
    for (size_t tap = 0; tap < taps; tap++) {
      const float* input = inputs[tap] + start;
      const float* weight = weights + tap * weightStride + start;
      if (count == lanes) {
        for (size_t i = 0; i < lanes; i++) sums[i] += weight[i] * input[i];
      } else {
        for (size_t i = 0; i < count; i++) sums[i] += weight[i] * input[i];
      }
    }
    for (size_t i = 0; i < lanes; i++) sums[i] = sums[i] / (1.0f + exponential(-sums[i]));
    std::memcpy(y + start, sums, count * sizeof(float));
  }
}

// The bits of |value|. As integers magnitudes are in order too, and behind all of them what is no number, which a
// comparison of floats passes over.
[[maybe_unused]] inline uint32_t magnitudeBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits & 0x7fffffffu;
}

// The magnitude by its bits; no number for infinity too.
[[maybe_unused]] inline float finiteMagnitude(uint32_t bits) {
  float magnitude;
  std::memcpy(&magnitude, &bits, 4);
  return bits < 0x7f800000u ? magnitude : NAN;
}

[[maybe_unused]] void quantizeRowGeneric(const float* x, size_t columns, size_t blockSize, size_t groupRows,
                                         size_t eightsApart, int8_t* codes, float* scales, int32_t* offsets) {
  constexpr size_t order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (size_t block = 0; block * blockSize < columns; block++) {
    const float* values = x + block * blockSize;
    const size_t count = columns - block * blockSize < blockSize ? columns - block * blockSize : blockSize;
    uint32_t greatest = 0;
    for (size_t i = 0; i < count; i++) {
      const uint32_t bits = magnitudeBits(values[i]);
      greatest = bits > greatest ? bits : greatest;
    }
    const float magnitude = finiteMagnitude(greatest);
    const float inverse = magnitude >= leastMagnitude ? 127.0f / magnitude : 0.0f;
    const size_t coded = inverse == 0.0f ? 0 : count;  // zero times what is not finite is no zero
    int8_t* out = codes + block * blockSize * groupRows;
    int32_t sum = 0;
    for (size_t i = 0; i < blockSize; i++) {
      const size_t column = i / 8 * 8 + order[i % 8];
      const int32_t code = column < coded ? static_cast<int32_t>(std::nearbyint(values[column] * inverse)) : 0;
      out[i / 8 * eightsApart + i % 8] = static_cast<int8_t>(code);
      sum += code;
    }
    scales[block * groupRows] = magnitude / 127.0f;
    offsets[block * groupRows] = -8 * sum;
  }
}

}  // namespace
}  // namespace espalier

// Loops that the compiler turns into the instructions of the including file: lanes of 16 floats, no branches inside.
// Everything has internal linkage, so that every instruction set keeps its own.
#pragma once

#include <cmath>
#include <cstring>

#include "routines.h"

namespace espalier {
namespace {

constexpr size_t lanes = 16;

[[maybe_unused]] float halfToFloat(uint16_t half) {
  // Shifts the exponent into place and scales; subnormal halves come out right because the product is exact.
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float magnitude;
  std::memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f;
  return half & 0x8000 ? -magnitude : magnitude;
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

[[maybe_unused]] void rotateHeadGeneric(const HeadRotation& rotation, const float* x, float* y) {
  for (size_t pair = 0; pair < rotation.width / 2; pair++) {
    const float cosine = rotation.cosines[rotation.pairs[pair]];
    const float sine = rotation.sines[rotation.pairs[pair]];
    const float a = x[2 * pair];
    const float b = x[2 * pair + 1];
    y[2 * pair] = a * cosine - b * sine;
    y[2 * pair + 1] = a * sine + b * cosine;
  }
}

[[maybe_unused]] void quantizeRowGeneric(const float* x, size_t columns, size_t blockSize, int8_t* codes, float* scales,
                                         int32_t* offsets) {
  constexpr size_t order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (size_t block = 0; block * blockSize < columns; block++) {
    const float* values = x + block * blockSize;
    const size_t count = columns - block * blockSize < blockSize ? columns - block * blockSize : blockSize;
    float greatest = 0;
    for (size_t i = 0; i < count; i++) {
      const float magnitude = std::fabs(values[i]);
      greatest = magnitude > greatest ? magnitude : greatest;
    }
    const float inverse = greatest >= leastMagnitude ? 127.0f / greatest : 0.0f;
    int8_t* out = codes + block * blockSize;
    int32_t sum = 0;
    for (size_t i = 0; i < blockSize; i++) {
      const size_t column = i / 8 * 8 + order[i % 8];
      const int32_t code = column < count ? static_cast<int32_t>(std::nearbyint(values[column] * inverse)) : 0;
      out[i] = static_cast<int8_t>(code);
      sum += code;
    }
    scales[block] = greatest / 127.0f;
    offsets[block] = -8 * sum;
  }
}

// The dot product of two vectors in sixteen partial sums.
inline __attribute__((always_inline)) float dot(const float* a, const float* b, size_t count) {
  float sums[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (size_t j = 0; j < lanes; j++) sums[j] += a[i + j] * b[i + j];
  }
  for (size_t j = 0; i + j < count; j++) sums[j] += a[i + j] * b[i + j];
  return sumLanes(sums);
}

// Turns scores into weights that sum to one; those from `visible` on become zero.
[[maybe_unused]] void softmax(float* scores, size_t visible, size_t padded) {
  float greatest = scores[0];
  for (size_t t = 1; t < visible; t++) greatest = scores[t] > greatest ? scores[t] : greatest;
  for (size_t t = visible; t < padded; t++) scores[t] = -INFINITY;
  float sums[lanes] = {};
  for (size_t t = 0; t < padded; t += lanes) {
    for (size_t j = 0; j < lanes; j++) {
      const float weight = scores[t + j] == -INFINITY ? 0.0f : exponential(scores[t + j] - greatest);
      scores[t + j] = weight;
      sums[j] += weight;
    }
  }
  const float inverse = 1.0f / sumLanes(sums);
  for (size_t t = 0; t < padded; t++) scores[t] *= inverse;
}

[[maybe_unused]] void attendHeadGeneric(const HeadAttention& head) {
  const size_t most = head.visible[head.rows - 1];
  const size_t padded = (most + lanes - 1) / lanes * lanes;
  for (size_t t = 0; t < most; t++) {
    for (size_t r = 0; r < head.rows; r++) {
      head.scores[r * head.scoreStride + t] = head.scale * dot(head.queries[r], head.keys + t * head.width, head.width);
    }
  }
  for (size_t r = 0; r < head.rows; r++) {
    softmax(head.scores + r * head.scoreStride, head.visible[r], padded);
    for (size_t i = 0; i < head.width; i++) head.outputs[r][i] = 0;
  }
  for (size_t t = 0; t < most; t++) {
    const float* value = head.values + t * head.width;
    for (size_t r = 0; r < head.rows; r++) {
      const float weight = head.scores[r * head.scoreStride + t];
      float* output = head.outputs[r];
      for (size_t i = 0; i < head.width; i++) output[i] += weight * value[i];
    }
  }
}

}  // namespace
}  // namespace espalier

// What the instruction sets with registers of 512 bits share: one register holds four columns of sixteen output rows.
// Everything has internal linkage, see routines.h.
#pragma once

#include <immintrin.h>

#include "attention_loops.h"
#include "prefetch_x86.h"
#include "quantized_codes_x86.h"
#include "scan_loops.h"

namespace espalier {
namespace {

bool supportsAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

// Four codes for all lanes; memcpy because codes are bytes, not integers, in memory.
inline __m512i broadcastFour(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return _mm512_set1_epi32(four);
}

// One tile after another, in one call: where inputs are cut, a tile has a few blocks of each chunk. Goes through blocks
// in pairs: to call `beginBlock` for each costs many rows, which wait for computing, what one row, which waits for
// memory, wins by having one stream to read.
template <size_t rows, Maker maker>
void multiply(const TileProduct& p) {
  constexpr bool once = rows == 1;  // with eight a step takes 1 to 3 % longer so (Zen 5)
  const __m512i low = _mm512_set1_epi8(15);
  const uint8_t* codes = p.weights;
  for (size_t tile = 0; tile < p.tiles; tile++) {
    float* const to = p.sums + tile * p.groupRows * tileRows;
    __m512 sums[rows];
    for (size_t r = 0; r < rows; r++) sums[r] = _mm512_loadu_ps(to + r * tileRows);
    const int8_t* activations = p.activations;
    const float* activationScales = p.activationScales;
    const int32_t* offsets = p.offsets;
    for (size_t block = 0; block < p.blocks;) {
      const uint8_t* halves = codes;
      codes += scaleLine;
      prefetchWeights<maker, once>(wantedSoon(p, halves));
      for (const size_t end = pairEnd(p, block); block < end; block++, halves += scaleLine / 2) {
        __m512i dots[rows];
        for (size_t r = 0; r < rows; r++) dots[r] = _mm512_set1_epi32(offsets[r]);
        size_t column = 0;
        do {  // at least once: not told so, the compiler keeps every sum twice
          prefetchWeights<maker, once>(wantedSoon(p, codes));
          const __m512i packed = _mm512_loadu_si512(codes);
          const __m512i even = _mm512_and_si512(packed, low);
          const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
          for (size_t r = 0; r < rows; r++) {
            dots[r] = _mm512_dpbusd_epi32(dots[r], even, broadcastFour(activations + 8 * r));
            dots[r] = _mm512_dpbusd_epi32(dots[r], odd, broadcastFour(activations + 8 * r + 4));
          }
          column += 8;
          codes += 64;
          activations += 8 * p.groupRows;
        } while (column < p.blockSize);
        const __m512 scales = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
        for (size_t r = 0; r < rows; r++) {
          const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(activationScales[r]));
          sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r]), scale, sums[r]);
        }
        offsets += p.groupRows;
        activationScales += p.groupRows;
      }
    }
    for (size_t r = 0; r < rows; r++) _mm512_storeu_ps(to + r * tileRows, sums[r]);
  }
}

template <Maker maker>
void multiplyFew(const TileProduct& p, size_t rows) {
  static constexpr void (*byRows[])(const TileProduct&) = {
      nullptr,
      multiply<1, maker>,
      multiply<2, maker>,
      multiply<3, maker>,
      multiply<4, maker>,
      multiply<5, maker>,
      multiply<6, maker>,
      multiply<7, maker>,
      multiply<8, maker>,
      multiply<9, maker>,
      multiply<10, maker>,
  };
  byRows[rows](p);
}

void quantizeRow(const float* x, size_t columns, size_t blockSize, size_t groupRows, size_t eightsApart, int8_t* codes,
                 float* scales, int32_t* offsets) {
  for (size_t block = 0; block * blockSize < columns; block++) {
    const size_t start = block * blockSize;
    if (columns - start < blockSize) {
      return quantizeRowGeneric(x + start, columns - start, blockSize, groupRows, eightsApart,
                                codes + start * groupRows, scales + block * groupRows, offsets + block * groupRows);
    }
    __m512i greatest = _mm512_setzero_si512();
    for (size_t i = 0; i < blockSize; i += 16) {
      const __m512i values = _mm512_loadu_si512(x + start + i);
      greatest = _mm512_max_epu32(greatest, _mm512_and_si512(values, _mm512_set1_epi32(0x7fffffff)));
    }
    const float magnitude = finiteMagnitude(_mm512_reduce_max_epu32(greatest));
    const __m512 inverse = _mm512_set1_ps(magnitude >= leastMagnitude ? 127.0f / magnitude : 0.0f);
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < blockSize; i += 32) {
      // What is not finite becomes the integer -2^31, whose low byte is the code: zero.
      const __m512 first = _mm512_mul_ps(_mm512_loadu_ps(x + start + i), inverse);
      const __m512 second = _mm512_mul_ps(_mm512_loadu_ps(x + start + i + 16), inverse);
      const __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(second)),
                                             _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(first)));
      sum = _mm256_dpbusd_epi32(sum, _mm256_set1_epi8(1), bytes);
      storeCodes(bytes, eightsApart, codes + start * groupRows + i / 8 * eightsApart);
    }
    scales[block * groupRows] = magnitude / 127.0f;
    offsets[block * groupRows] = -8 * sumOf(sum);
  }
}

struct Simd {
  using Vector = __m512;
  static constexpr size_t lanes = 16, vectors = 4;
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector broadcast(float value) { return _mm512_set1_ps(value); }
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static Vector loadFew(const float* from, size_t count) { return _mm512_maskz_loadu_ps(mask(count), from); }
  static Vector loadHalves(const Half* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Vector loadFewHalves(const Half* from, size_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(count), from));
  }
  static void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
  static void storeHalves(Half* to, Vector value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  static void storeFew(float* to, Vector value, size_t count) { _mm512_mask_storeu_ps(to, mask(count), value); }
  static Vector multiplyAdd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static __mmask16 mask(size_t count) { return static_cast<__mmask16>((1u << count) - 1); }
};

}  // namespace
}  // namespace espalier

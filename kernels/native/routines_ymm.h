// What the instruction sets with registers of 256 bits share: one holds four columns of eight output rows, half a tile.
#pragma once

#include <cpuid.h>
#include <immintrin.h>

#include "attention_loops.h"
#include "prefetch_x86.h"
#include "quantized_codes_x86.h"
#include "scan_loops.h"

namespace espalier {
namespace {

constexpr size_t halves = 2, halfTile = tileRows / halves;

// Whether there are AVX2, FMA and F16C, and the operating system keeps the registers.
inline bool supportsAvx2() {
  unsigned a, b, c, d;  // clang 14 has no name for F16C
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
         (c & bit_F16C);
}

inline __m256i broadcastFour(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return _mm256_set1_epi32(four);
}

// Makes the compiler have a value in a register here: else it loads activations again for each use, or keeps the sums
// of a loop twice and has none left.
inline void keep(__m256i& value) { asm("" : "+x"(value)); }

// A tile against some activation rows. Its halves share the loads of the activations, which take 1.2 times as long one
// after the other (Zen 5); the sums stay in memory, for want of registers. `Dots` is the instruction set's: how sums of
// 32 columns begin, take four columns' products and are added up. `columns` is the block size if it is so short that no
// integers wait for the next 32 columns, and 0 for any: AVX2 takes 1.15 times as long if they may (Zen 5).
template <typename Dots, size_t rows, size_t columns, Maker maker>
void multiplyRows(const TileProduct& p) {
  constexpr bool once = rows == 1;  // several rows may go through a tile more than once
  const __m256i low = _mm256_set1_epi8(15);
  const size_t blockSize = columns == 0 ? p.blockSize : columns;
  const uint8_t* codes = p.weights;
  const int8_t* activations = p.activations;
  const float* activationScales = p.activationScales;
  const int32_t* offsets = p.offsets;
  for (size_t block = 0; block < p.blocks; block++) {
    const uint16_t* scales = beginBlock(p, block, &codes);
    const uint8_t* soon = wantedSoon(p, codes);
    prefetchWeights<maker, once>(soon - scaleLine);
    __m256i dots[halves][rows];
    const auto before = [&](size_t h, size_t r) { return columns == 0 ? dots[h][r] : _mm256_set1_epi32(offsets[r]); };
    if (columns == 0) {
      for (size_t r = 0; r < rows; r++) dots[0][r] = dots[1][r] = _mm256_set1_epi32(offsets[r]);
    }
    size_t column = 0;
    do {
      __m256i partial[halves][rows];
      for (size_t h = 0; h < halves; h++) {
        for (size_t r = 0; r < rows; r++) partial[h][r] = Dots::begin(before(h, r));
      }
      const size_t end = column + 32;
      do {
        prefetchWeights<maker, once>(soon);
        for (size_t odd = 0; odd < 2; odd++) {
          __m256i weights[halves];
          for (size_t h = 0; h < halves; h++) {
            weights[h] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * h));
            if (odd) {
              keep(weights[h]);
              weights[h] = _mm256_srli_epi16(weights[h], 4);
            }
            weights[h] = _mm256_and_si256(weights[h], low);
          }
          for (size_t r = 0; r < rows; r++) {
            __m256i four = broadcastFour(activations + 8 * r + 4 * odd);
            keep(four);
            for (size_t h = 0; h < halves; h++) {
              partial[h][r] = Dots::add(partial[h][r], weights[h], four);
              keep(partial[h][r]);
            }
          }
        }
        column += 8;
        codes += 64;
        soon += 64;
        activations += 8 * p.groupRows;
      } while (column < end);
      for (size_t h = 0; h < halves; h++) {
        for (size_t r = 0; r < rows; r++) dots[h][r] = Dots::end(before(h, r), partial[h][r]);
      }
    } while (column < blockSize);
    for (size_t h = 0; h < halves; h++) {
      const __m256 ofHalf = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + h * halfTile)));
      for (size_t r = 0; r < rows; r++) {
        float* sums = p.sums + r * tileRows + h * halfTile;
        const __m256 scale = _mm256_mul_ps(ofHalf, _mm256_set1_ps(activationScales[r]));
        _mm256_storeu_ps(sums, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[h][r]), scale, _mm256_loadu_ps(sums)));
      }
    }
    offsets += p.groupRows;
    activationScales += p.groupRows;
  }
}

// `atOnce` rows at a time: those for which there are registers.
template <typename Dots, size_t atOnce, Maker maker>
void multiplyTileOf(const TileProduct& product, size_t rows) {
  TileProduct p = product;
  while (rows > 0) {
    const size_t some = rows < atOnce ? rows : atOnce;
    withConstant<atOnce>(some, [&p](auto count) {
      constexpr size_t constant = decltype(count)::value;
      p.blockSize == 32 ? multiplyRows<Dots, constant, 32, maker>(p) : multiplyRows<Dots, constant, 0, maker>(p);
    });
    p.activations += 8 * some;
    p.activationScales += some;
    p.offsets += some;
    p.sums += some * tileRows;
    rows -= some;
  }
}

template <typename Dots, size_t atOnce>
void multiplyTile(const TileProduct& p, size_t rows) {
  makerOfProcessor() == Maker::amd ? multiplyTileOf<Dots, atOnce, Maker::amd>(p, rows)
                                   : multiplyTileOf<Dots, atOnce, Maker::other>(p, rows);
}

void quantizeRow(const float* x, size_t columns, size_t blockSize, size_t groupRows, size_t eightsApart, int8_t* codes,
                 float* scales, int32_t* offsets) {
  const __m256i lanesInOrder = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i magnitudes = _mm256_set1_epi32(0x7fffffff);
  for (size_t block = 0; block * blockSize < columns; block++) {
    const size_t start = block * blockSize;
    if (columns - start < blockSize) {
      return quantizeRowGeneric(x + start, columns - start, blockSize, groupRows, eightsApart,
                                codes + start * groupRows, scales + block * groupRows, offsets + block * groupRows);
    }
    __m256i greatest = _mm256_setzero_si256();
    for (size_t i = 0; i < blockSize; i += 8) {
      const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + start + i));
      greatest = _mm256_max_epu32(greatest, _mm256_and_si256(values, magnitudes));
    }
    uint32_t eight[8], bits = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(eight), greatest);
    for (uint32_t each : eight) bits = each > bits ? each : bits;
    const float magnitude = finiteMagnitude(bits);
    if (std::isnan(magnitude)) {  // the instructions below would make other codes than zeros of it
      quantizeRowGeneric(x + start, blockSize, blockSize, groupRows, eightsApart, codes + start * groupRows,
                         scales + block * groupRows, offsets + block * groupRows);
      continue;
    }
    const __m256 inverse = _mm256_set1_ps(magnitude >= leastMagnitude ? 127.0f / magnitude : 0.0f);
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < blockSize; i += 32) {
      __m256i integers[4];
      for (size_t j = 0; j < 4; j++) {
        integers[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + start + i + 8 * j), inverse));
        sum = _mm256_add_epi32(sum, integers[j]);
      }
      const __m256i bytes =
          _mm256_permutevar8x32_epi32(_mm256_packs_epi16(_mm256_packs_epi32(integers[0], integers[1]),
                                                         _mm256_packs_epi32(integers[2], integers[3])),
                                      lanesInOrder);
      storeCodes(bytes, eightsApart, codes + start * groupRows + i / 8 * eightsApart);
    }
    scales[block * groupRows] = magnitude / 127.0f;
    offsets[block * groupRows] = -8 * sumOf(sum);
  }
}

struct Simd {
  using Vector = __m256;
  static constexpr size_t lanes = 8, vectors = 2;
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector broadcast(float value) { return _mm256_set1_ps(value); }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static Vector loadFew(const float* from, size_t count) { return _mm256_maskload_ps(from, mask(count)); }
  static Vector loadHalves(const Half* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Vector loadFewHalves(const Half* from, size_t count) {
    Half few[lanes] = {};
    std::memcpy(few, from, count * sizeof(Half));
    return loadHalves(few);
  }
  static void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
  static void storeHalves(Half* to, Vector value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  static void storeFew(float* to, Vector value, size_t count) { _mm256_maskstore_ps(to, mask(count), value); }
  static Vector multiplyAdd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static __m256i mask(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace
}  // namespace espalier

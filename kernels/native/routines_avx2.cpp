// AVX2 with FMA and F16C: one register holds four columns of eight output rows, half a tile.
#include <cpuid.h>
#include <immintrin.h>

#include "attention_loops.h"
#include "scan_loops.h"

namespace espalier {
namespace {

constexpr size_t halfTile = 8;

bool supported() {
  unsigned a, b, c, d;  // clang 14 has no name for F16C
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
         (c & bit_F16C);
}

inline __m256i broadcastFour(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, 4);
  return _mm256_set1_epi32(four);
}

// Sixteen-bit sums of 32 columns stay in range: 16 products of at most 15 * 127.
template <size_t rows>
void multiplyHalf(const TileProduct& p, size_t half) {
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 sums[rows];
  for (size_t r = 0; r < rows; r++) sums[r] = _mm256_loadu_ps(p.sums + r * tileRows + half * halfTile);
  const uint8_t* codes = p.weights;
  const int8_t* activations = p.activations;
  for (size_t block = 0; block < p.blocks; block++) {
    const uint16_t* halves = beginBlock(p, block, &codes) + half * halfTile;
    if (half == 0) __builtin_prefetch(wantedSoon(p, halves));
    __m256i dots[rows];
    for (size_t r = 0; r < rows; r++) dots[r] = _mm256_set1_epi32(p.offsets[block * p.groupRows + r]);
    for (size_t column = 0; column < p.blockSize; column += 32) {
      __m256i partial[rows];
      for (size_t r = 0; r < rows; r++) partial[r] = _mm256_setzero_si256();
      for (size_t eight = column; eight < column + 32; eight += 8, codes += 64, activations += 8 * p.groupRows) {
        if (half == 0) __builtin_prefetch(wantedSoon(p, codes));
        const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * half));
        const __m256i even = _mm256_and_si256(packed, low);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low);
        for (size_t r = 0; r < rows; r++) {
          const int8_t* values = activations + 8 * r;
          partial[r] = _mm256_add_epi16(partial[r], _mm256_maddubs_epi16(even, broadcastFour(values)));
          partial[r] = _mm256_add_epi16(partial[r], _mm256_maddubs_epi16(odd, broadcastFour(values + 4)));
        }
      }
      for (size_t r = 0; r < rows; r++) dots[r] = _mm256_add_epi32(dots[r], _mm256_madd_epi16(partial[r], ones));
    }
    const __m256 scales = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
    for (size_t r = 0; r < rows; r++) {
      const __m256 scale = _mm256_mul_ps(scales, _mm256_set1_ps(p.activationScales[block * p.groupRows + r]));
      sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), scale, sums[r]);
    }
  }
  for (size_t r = 0; r < rows; r++) _mm256_storeu_ps(p.sums + r * tileRows + half * halfTile, sums[r]);
}

template <size_t rows>
void multiply(const TileProduct& p) {
  multiplyHalf<rows>(p, 0);
  multiplyHalf<rows>(p, 1);
}

// Rows for which there are registers.
constexpr size_t rowsAtOnce = 4;

void multiplyTile(const TileProduct& product, size_t rows) {
  static constexpr void (*byRows[])(const TileProduct&) = {nullptr, multiply<1>, multiply<2>, multiply<3>, multiply<4>};
  TileProduct p = product;
  while (rows > 0) {
    const size_t some = rows < rowsAtOnce ? rows : rowsAtOnce;
    byRows[some](p);
    p.activations += 8 * some;
    p.activationScales += some;
    p.offsets += some;
    p.sums += some * tileRows;
    rows -= some;
  }
}

// Four times eight codes, each `groupRows` times eight behind the one before.
inline void storeEights(__m256i bytes, size_t groupRows, int8_t* codes) {
  const __m128i first = _mm256_castsi256_si128(bytes), second = _mm256_extracti128_si256(bytes, 1);
  const int64_t eights[] = {_mm_cvtsi128_si64(first), _mm_extract_epi64(first, 1), _mm_cvtsi128_si64(second),
                            _mm_extract_epi64(second, 1)};
  for (size_t i = 0; i < 4; i++) std::memcpy(codes + 8 * i * groupRows, eights + i, 8);
}

void quantizeRow(const float* x, size_t columns, size_t blockSize, size_t groupRows, int8_t* codes, float* scales,
                 int32_t* offsets) {
  const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 0, 2, 4, 6, 1, 3, 5, 7,
                                         8, 10, 12, 14, 9, 11, 13, 15);
  const __m256i lanesInOrder = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256 magnitudeBits = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  for (size_t block = 0; block * blockSize < columns; block++) {
    const size_t start = block * blockSize;
    if (columns - start < blockSize) {
      return quantizeRowGeneric(x + start, columns - start, blockSize, groupRows, codes + start * groupRows,
                                scales + block * groupRows, offsets + block * groupRows);
    }
    __m256 greatest = _mm256_setzero_ps();
    for (size_t i = 0; i < blockSize; i += 8) {
      greatest = _mm256_max_ps(greatest, _mm256_and_ps(_mm256_loadu_ps(x + start + i), magnitudeBits));
    }
    float eight[8];
    _mm256_storeu_ps(eight, greatest);
    float magnitude = 0;
    for (float value : eight) magnitude = value > magnitude ? value : magnitude;
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
      storeEights(_mm256_shuffle_epi8(bytes, order), groupRows, codes + (start + i) * groupRows);
    }
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b10110001));
    scales[block * groupRows] = magnitude / 127.0f;
    offsets[block * groupRows] = -8 * _mm_cvtsi128_si32(four);
  }
}

struct Simd {
  using Vector = __m256;
  static constexpr size_t lanes = 8, vectors = 2;
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector broadcast(float value) { return _mm256_set1_ps(value); }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static Vector loadFew(const float* from, size_t count) { return _mm256_maskload_ps(from, mask(count)); }
  static void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
  static void storeFew(float* to, Vector value, size_t count) { _mm256_maskstore_ps(to, mask(count), value); }
  static Vector multiplyAdd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static __m256i mask(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace

extern const Routines avx2Routines;
const Routines avx2Routines = {
    "avx2",
    2 * rowsAtOnce,
    supported,
    quantizeRow,
    multiplyOneByOne<multiplyTile>,
    normalizeRowGeneric,
    gateGeneric,
    rotateHeadGeneric,
    attendWith<Simd>,
    joinGeneric,
    convolveGeneric,
    scanWith<Simd>,
};

}  // namespace espalier

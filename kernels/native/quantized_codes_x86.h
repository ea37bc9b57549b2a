// How the instruction sets of x86 end the quantization of a block: all of them hold its codes in registers of 256 bits.
// Everything has internal linkage, see routines.h.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "routines.h"

namespace espalier {
namespace {

// Stores 32 codes of consecutive columns eight by eight, each eight `eightsApart` behind the one before, and in an
// eight the even columns before the odd ones, as the low and the high halves of the weights' bytes want them.
inline void storeCodes(__m256i columns, size_t eightsApart, int8_t* codes) {
  const __m256i order = _mm256_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 0, 2, 4, 6, 1, 3, 5, 7,
                                         8, 10, 12, 14, 9, 11, 13, 15);
  const __m256i bytes = _mm256_shuffle_epi8(columns, order);
  const __m128i first = _mm256_castsi256_si128(bytes), second = _mm256_extracti128_si256(bytes, 1);
  const int64_t eights[] = {_mm_cvtsi128_si64(first), _mm_extract_epi64(first, 1), _mm_cvtsi128_si64(second),
                            _mm_extract_epi64(second, 1)};
  for (size_t i = 0; i < 4; i++) std::memcpy(codes + i * eightsApart, eights + i, 8);
}

// Of eight integers.
inline int32_t sumOf(__m256i eight) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b01001110));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b10110001));
  return _mm_cvtsi128_si32(four);
}

}  // namespace
}  // namespace espalier

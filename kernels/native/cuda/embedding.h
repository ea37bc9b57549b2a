// Rows of the int4 embedding.
#pragma once

#include <cstdint>

namespace espalier::cuda {

struct EmbeddingParameters {
  const int64_t* tokens;   // [rows]
  const uint8_t* codes;    // [vocabulary][blocks][block size / 2]
  const uint16_t* scales;  // [vocabulary][blocks]
  int64_t vocabulary;
  int width, blockSize;
  float* y;  // [rows][width]
};

}  // namespace espalier::cuda

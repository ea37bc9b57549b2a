#include "device.cuh"
#include "embedding.h"

namespace espalier::cuda {

// A block per row; a thread per byte, hence per pair of columns. A token that is none reads as the first.
extern "C" __global__ void __launch_bounds__(256) embedRows(const __grid_constant__ EmbeddingParameters p) {
  waitForPrevious();
  letNextStart();
  const int64_t given = p.tokens[blockIdx.x];
  const size_t token = given < 0 || given >= p.vocabulary ? 0 : static_cast<size_t>(given);
  const int blocks = p.width / p.blockSize;
  const uint8_t* const codes = p.codes + token * static_cast<size_t>(p.width / 2);
  const uint16_t* const scales = p.scales + token * static_cast<size_t>(blocks);
  float* const y = p.y + static_cast<size_t>(blockIdx.x) * static_cast<size_t>(p.width);
  for (int i = static_cast<int>(threadIdx.x); i < p.width / 2; i += static_cast<int>(blockDim.x)) {
    const float scale = __half2float(__ushort_as_half(scales[2 * i / p.blockSize]));
    y[2 * i] = static_cast<float>((codes[i] & 15) - 8) * scale;
    y[2 * i + 1] = static_cast<float>((codes[i] >> 4) - 8) * scale;
  }
}

}  // namespace espalier::cuda

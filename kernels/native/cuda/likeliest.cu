#include "device.cuh"
#include "likeliest.h"

namespace espalier::cuda {
namespace {

constexpr int threads = 256;

// Ordered as the logits are, and among equal ones the other way round as the tokens: the greatest is the wanted one.
// Zero is below all.
__device__ __forceinline__ unsigned long long rankOf(float logit, int token) {
  if (!(logit > -INFINITY)) return 0;
  const uint32_t bits = __float_as_uint(logit);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(token));
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) pickLikeliest(const __grid_constant__ LikeliestParameters p) {
  __shared__ unsigned long long bestOf[threads / 32];
  waitForPrevious();
  letNextStart();
  const int row = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const size_t first = static_cast<size_t>(row) * static_cast<size_t>(p.vocabulary);
  unsigned long long best = 0;
  const auto take = [&](unsigned long long rank) { best = rank > best ? rank : best; };
  const int begin = static_cast<int>(blockIdx.x) * threads + thread, step = likeliestBlocks * threads;
  if (p.vocabulary % 4 == 0) {
    const float4* const from = reinterpret_cast<const float4*>(p.logits + first);
    float4* const to = reinterpret_cast<float4*>(p.copy + first);
    for (int i = begin; i < p.vocabulary / 4; i += step) {
      const float4 four = from[i];
      to[i] = four;
      take(rankOf(four.x, 4 * i));
      take(rankOf(four.y, 4 * i + 1));
      take(rankOf(four.z, 4 * i + 2));
      take(rankOf(four.w, 4 * i + 3));
    }
  } else {
    for (int i = begin; i < p.vocabulary; i += step) {
      const float logit = p.logits[first + static_cast<size_t>(i)];
      p.copy[first + static_cast<size_t>(i)] = logit;
      take(rankOf(logit, i));
    }
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) take(__shfl_xor_sync(allLanes, best, lanes));
  if (thread % 32 == 0) bestOf[thread / 32] = best;
  __syncthreads();
  if (thread != 0) return;
  for (int warp = 0; warp < threads / 32; warp++) take(bestOf[warp]);
  auto* const shared = reinterpret_cast<unsigned long long*>(p.best + row);
  atomicMax(shared, best);
  __threadfence();
  if (atomicInc(p.arrived + row, likeliestBlocks - 1) != likeliestBlocks - 1) return;
  __threadfence();
  const unsigned long long rank = atomicExch(shared, 0ull);
  p.tokens[row] = rank == 0 ? 0 : static_cast<int64_t>(0xffffffffu - static_cast<uint32_t>(rank));
}

}  // namespace espalier::cuda

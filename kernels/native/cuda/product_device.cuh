// What the kernels of a product share: codes to halves, how far rows go, the batch's rows as halves, what becomes of
// sums.
//
// The order in which a product's columns are summed is free as long as both operands have it, so a lane's eight codes
// of one word are taken as they fall out of it: the pairs (0, 4), (1, 5), (2, 6), (3, 7). The batch's rows are prepared
// to match.
#pragma once

#include "device.cuh"
#include "prefix_product.h"

namespace espalier::cuda {
namespace {

constexpr int unitEights = unitColumns / 8;

// By the fast division: the other one is a call, and a kernel that calls does not run its products by themselves.
__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// Eight codes less 8 as halves: pairs[i] holds codes i and i + 4. A code with its bits in the mantissa of 1024 is 1024
// + code, or 1024 + 16 code if it stands four bits higher; both minus what is too much are exact.
__device__ __forceinline__ void unpack(uint32_t codes, uint32_t pairs[4]) {
  constexpr uint32_t magic = 0x64006400;
  const __half2 low = halvesOf(0x64086408);                                     // 1032
  const __half2 sixteenth = halvesOf(0x2c002c00), high = halvesOf(0xd480d480);  // 1/16, -72
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t word = codes >> 8 * i;
    pairs[2 * i] = bitsOf(__hsub2(halvesOf(maskOr(word, 0x000f000f, magic)), low));
    pairs[2 * i + 1] = bitsOf(__hfma2(halvesOf(maskOr(word, 0x00f000f0, magic)), sixteenth, high));
  }
}

// The same times their scale.
__device__ __forceinline__ void unpack(uint32_t codes, __half2 scale, uint32_t pairs[4]) {
  unpack(codes, pairs);
#pragma unroll
  for (int i = 0; i < 4; i++) pairs[i] = bitsOf(__hmul2(halvesOf(pairs[i]), scale));
}

__device__ __forceinline__ uint32_t wordOf(const uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// Units, or tiles, that some row from `row` on uses: rows are widest first, so `row` itself decides. A warp's lanes
// together, so that the counts are one load.
__device__ __forceinline__ int partsUsedFrom(const ProductParameters& p, int row, int all) {
  if (!p.rowsUpTo) return all;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool used = lane < p.segments && row < static_cast<int>(p.rowsUpTo[p.levels[min(lane, maxSegments - 1)]]);
  const int segments = __popc(__ballot_sync(allLanes, used));
  return segments == p.segments ? all : p.starts[segments];
}

__device__ __forceinline__ int unitsUsedFrom(const ProductParameters& p, int row) {
  return p.cut == static_cast<int>(Cut::inputs) ? partsUsedFrom(p, row, p.units) : p.units;
}

__device__ __forceinline__ int tilesUsedFrom(const ProductParameters& p, int row) {
  return p.cut == static_cast<int>(Cut::inputs) ? p.tiles : partsUsedFrom(p, row, p.tiles);
}

// Rows of the batch that use a tile.
__device__ __forceinline__ int rowsOfTile(const ProductParameters& p, int tile) {
  if (!p.rowsUpTo || p.cut == static_cast<int>(Cut::inputs)) return p.rows;
  int c = 0;
  while (c + 1 < p.segments && p.starts[c + 1] <= tile) c++;
  return static_cast<int>(p.rowsUpTo[p.levels[c]]);
}

// How far the rows of the batch go. A warp's lanes hold a segment each and answer together.
class Prefixes {
 public:
  __device__ __forceinline__ explicit Prefixes(const ProductParameters& p) : p_(p) {
    const int lane = static_cast<int>(threadIdx.x) % 32, segment = min(lane, maxSegments - 1);
    start_ = p.starts[segment];
    rows_ = !p.rowsUpTo ? p.rows : lane < p.segments ? static_cast<int>(p.rowsUpTo[p.levels[segment]]) : 0;
    exists_ = lane < p.segments;
  }

  // Units, or tiles, that some row from `row` on uses: rows are widest first, so `row` itself decides.
  __device__ __forceinline__ int unitsFrom(int row) const {
    return p_.cut == static_cast<int>(Cut::inputs) ? partsFrom(row, p_.units) : p_.units;
  }
  __device__ __forceinline__ int tilesFrom(int row) const {
    return p_.cut == static_cast<int>(Cut::inputs) ? p_.tiles : partsFrom(row, p_.tiles);
  }

  // Rows of the batch that use a tile.
  __device__ __forceinline__ int rowsOfTile(int tile) const {
    if (p_.cut == static_cast<int>(Cut::inputs)) return p_.rows;
    const int segment = __popc(__ballot_sync(allLanes, exists_ && start_ <= tile)) - 1;
    return __shfl_sync(allLanes, rows_, segment);
  }

 private:
  __device__ __forceinline__ int partsFrom(int row, int all) const {
    const int segments = __popc(__ballot_sync(allLanes, exists_ && rows_ > row));
    const int start = __shfl_sync(allLanes, start_, segments % 32);
    return segments == p_.segments ? all : start;
  }

  const ProductParameters& p_;
  int start_, rows_;
  bool exists_;
};

__device__ __forceinline__ void loadAligned(const float* from, float out[8]) {
  const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
  out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
  out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}

// Eights of a row of the batch that a thread holds between the norm's two passes.
constexpr int heldEights = 2;

// Hands a row of the batch as halves, normalized, to `put(eight, its pairs (i, i + 4))` in the order of the packed
// columns, as many eights as there are units: zeros where there is no column, and behind `usedUnits`. The block's
// threads together; `sums` is shared, one float per warp.
template <int threads, typename Put>
__device__ __forceinline__ void prepareRow(const ProductParameters& p, const float* normWeight, int row, int usedUnits,
                                           float* sums, Put&& put) {
  const float* const x = p.x + static_cast<size_t>(row) * static_cast<size_t>(p.inputs);
  const int thread = static_cast<int>(threadIdx.x), eights = p.units * unitEights, used = usedUnits * unitEights;
  const bool aligned = p.inputStep == 8;
  const auto inputOf = [&](int eight, int j) {
    if (!aligned) return p.inputOf[8 * eight + j];
    const int first = p.inputOf ? p.inputOf[eight] : 8 * eight < p.inputs ? 8 * eight : -1;
    return first < 0 ? -1 : first + j;
  };
  const auto load = [&](const float* from, int eight, float values[8]) {
    const int first = inputOf(eight, 0);
    if (aligned && first >= 0) return loadAligned(from + first, values);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const int input = aligned ? -1 : inputOf(eight, j);
      values[j] = input < 0 ? 0 : from[input];
    }
  };
  float values[heldEights][8], squares = 0;
#pragma unroll
  for (int i = 0; i < heldEights; i++) {
    const int eight = thread + threads * i;
    if (eight < eights) load(x, eight, values[i]);
  }
  float factor = 1;
  if (normWeight) {
    const auto square = [&squares](const float v[8]) {
#pragma unroll
      for (int j = 0; j < 8; j++) squares = fmaf(v[j], v[j], squares);
    };
#pragma unroll
    for (int i = 0; i < heldEights; i++) {
      if (thread + threads * i < eights) square(values[i]);
    }
    for (int eight = thread + threads * heldEights; eight < eights; eight += threads) {
      float others[8];
      load(x, eight, others);
      square(others);
    }
    squares = warpSum(squares);
    if (thread % 32 == 0) sums[thread / 32] = squares;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < threads / 32; warp++) total += sums[warp];
    factor = rsqrtf(total / static_cast<float>(p.inputs) + p.epsilon);
  }
  const auto write = [&](int eight, float v[8]) {
    if (normWeight) {
      float weights[8];
      load(normWeight, eight, weights);
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = __fmul_rn(v[j], __fmul_rn(factor, weights[j]));
    }
    put(eight, eight < used ? make_uint4(packHalves(v[0], v[4]), packHalves(v[1], v[5]), packHalves(v[2], v[6]),
                                         packHalves(v[3], v[7]))
                            : make_uint4(0, 0, 0, 0));
  };
#pragma unroll
  for (int i = 0; i < heldEights; i++) {
    if (thread + threads * i < eights) write(thread + threads * i, values[i]);
  }
#pragma unroll 2
  for (int eight = thread + threads * heldEights; eight < eights; eight += threads) {
    float others[8];
    load(x, eight, others);
    write(eight, others);
  }
}

// What becomes of the sum of a row in a place, the tile's times 16 plus the one in it: the bias, the activation.
// `gated` is the sum of what it gates, 8 places on.
__device__ __forceinline__ float finished(const ProductParameters& p, int place, float sum, float gated) {
  if (p.bias) sum += p.bias[place];
  if (p.cut == static_cast<int>(Cut::gated)) {
    if (p.bias) gated += p.bias[place + tileRows / 2];
    return __fmul_rn(silu(sum), gated);  // a residual is added to what is rounded, as everywhere
  }
  if (p.activation == static_cast<int>(Activation::squaredRelu)) return sum > 0 ? sum * sum : 0;
  return sum;
}

// Writes the output of a place, -1 for none, in a row of the batch; zero, or the residual, if the row does not keep it.
__device__ __forceinline__ void store(const ProductParameters& p, int place, int output, int token, bool kept,
                                      float sum, float gated) {
  if (output < 0) return;
  const size_t at = static_cast<size_t>(token) * static_cast<size_t>(p.outputs) + static_cast<size_t>(output);
  const float result = kept ? finished(p, place, sum, gated) : 0;
  p.y[at] = p.residual ? result + p.residual[at] : result;
}

// Writes the sums that a warp's lanes hold as `mma16816` leaves them: of a tile's places g and g + 8 and, of every
// eight rows of the batch from `firstToken` on, the rows 2t and 2t + 1. Rows from `keptRows` on do not keep the tile.
template <int eights>
__device__ __forceinline__ void storeTile(const ProductParameters& p, int tile, int firstToken, int keptRows,
                                          const float (&sums)[eights][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const bool gated = p.cut == static_cast<int>(Cut::gated);
  const bool squaredRelu = p.activation == static_cast<int>(Activation::squaredRelu);
  constexpr int atOnce = eights < 4 ? eights : 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (half == 1 && gated) break;
    const int place = tile * tileRows + g + 8 * half, output = p.outputOf[place];
    if (output < 0) continue;
    const float bias = p.bias ? p.bias[place] : 0;
    const float gatedBias = p.bias && gated ? p.bias[place + tileRows / 2] : 0;
    const size_t outputs = static_cast<size_t>(afresh(p.outputs));
    const int rows = p.rows - firstToken - 2 * t, kept = keptRows - firstToken - 2 * t;
    // In y and residual, of the eight rows that are next.
    size_t at = static_cast<size_t>(firstToken + 2 * t) * outputs + static_cast<size_t>(output);
#pragma unroll
    for (int base = 0; base < eights; base += atOnce) {
      // All that is read comes first: the reads wait for each other no more than they must.
      float added[atOnce][2] = {};
      if (p.residual) {
        const float* residual = p.residual + at;
#pragma unroll
        for (int n = 0; n < atOnce; n++, residual += 8 * outputs) {
          const int row = 8 * (base + n);
          if (row < rows) added[n][0] = residual[0];
          if (row + 1 < rows) added[n][1] = residual[outputs];
        }
      }
#pragma unroll
      for (int n = 0; n < atOnce; n++, at += 8 * outputs) {
        const int row = 8 * (base + n);
        float sum[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          sum[i] = sums[base + n][2 * half + i] + bias;
          if (gated) sum[i] = __fmul_rn(silu(sum[i]), sums[base + n][2 + i] + gatedBias);
          if (squaredRelu) sum[i] = sum[i] > 0 ? sum[i] * sum[i] : 0;
          sum[i] = (row + i < kept ? sum[i] : 0) + added[n][i];
        }
        if (row < rows) p.y[at] = sum[0];
        if (row + 1 < rows) p.y[at + outputs] = sum[1];
      }
    }
  }
}

}  // namespace
}  // namespace espalier::cuda

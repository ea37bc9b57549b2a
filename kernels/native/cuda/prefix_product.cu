// x W^T with W int4 (W4A16): the batch's rows as halves, the weights turned into halves in registers, sums in floats by
// the tensor cores' m16n8k16, in which the weights are the 16 rows and the batch is the 8 columns.
//
// The order in which a product's columns are summed is free as long as both operands have it, so a lane's eight codes
// of one word are taken as they fall out of it: the pairs (0, 4), (1, 5), (2, 6), (3, 7). The batch's rows are prepared
// to match.
#include "device.cuh"
#include "prefix_product.h"

namespace espalier::cuda {
namespace {

constexpr int threads = 256, warps = threads / 32;
constexpr int unitEights = unitColumns / 8;

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

// Eight codes as halves times their scale: pairs[i] holds codes i and i + 4. A code with its bits in the mantissa of
// 1024 is 1024 + code, or 1024 + 16 code if it stands four bits higher; both minus what is too much are exact.
__device__ __forceinline__ void unpack(uint32_t codes, __half2 scale, uint32_t pairs[4]) {
  constexpr uint32_t magic = 0x64006400;
  const __half2 low = halvesOf(0x64086408);                                     // 1032
  const __half2 sixteenth = halvesOf(0x2c002c00), high = halvesOf(0xd480d480);  // 1/16, -72
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t word = codes >> 8 * i;
    const __half2 even = __hsub2(halvesOf((word & 0x000f000f) | magic), low);
    const __half2 odd = __hfma2(halvesOf((word & 0x00f000f0) | magic), sixteenth, high);
    pairs[2 * i] = bitsOf(__hmul2(even, scale));
    pairs[2 * i + 1] = bitsOf(__hmul2(odd, scale));
  }
}

__device__ __forceinline__ uint32_t wordOf(const uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// Units, or tiles, that some row from `row` on uses: rows are widest first, so `row` itself decides. A warp's lanes
// together, so that the counts are one load.
__device__ __forceinline__ int partsUsedFrom(const ProductParameters& p, int row, int all) {
  if (!p.rowsUpTo) return all;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool used = lane<p.segments&& static_cast<int>(p.rowsUpTo[p.levels[min(lane, maxSegments - 1)]])> row;
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

// Eight values of a row of the batch, in the order of the packed columns; zeros where there is none.
__device__ __forceinline__ void loadEight(const ProductParameters& p, const float* from, int eight, float out[8]) {
  if (p.inputStep == 8) {
    const int first = p.inputOf ? p.inputOf[eight] : 8 * eight < p.inputs ? 8 * eight : -1;
    if (first < 0) {
#pragma unroll
      for (int i = 0; i < 8; i++) out[i] = 0;
      return;
    }
    const float4 a = *reinterpret_cast<const float4*>(from + first);
    const float4 b = *reinterpret_cast<const float4*>(from + first + 4);
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int input = p.inputOf[8 * eight + i];
    out[i] = input < 0 ? 0 : from[input];
  }
}

// Writes a row of the batch as halves, normalized, in the order of the packed columns, as many eights as the row uses
// and zeros up to `eights`. The block's threads together; `sums` is shared, one float per warp.
__device__ __forceinline__ void prepareRow(const ProductParameters& p, int row, int eights, float* sums, uint4* out) {
  const float* const x = p.x + static_cast<size_t>(row) * static_cast<size_t>(p.inputs);
  const int used = unitsUsedFrom(p, row) * unitEights;
  // Most rows fit in what the threads can hold between the two passes.
  constexpr int held = 2;
  float values[held][8];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < held; i++) {
    const int eight = static_cast<int>(threadIdx.x) + threads * i;
    if (eight < used) {
      loadEight(p, x, eight, values[i]);
#pragma unroll
      for (int j = 0; j < 8; j++) squares += values[i][j] * values[i][j];
    }
  }
  float factor = 1;
  if (p.normWeight) {
    for (int eight = static_cast<int>(threadIdx.x) + threads * held; eight < used; eight += threads) {
      float others[8];
      loadEight(p, x, eight, others);
#pragma unroll
      for (int j = 0; j < 8; j++) squares += others[j] * others[j];
    }
    squares = warpSum(squares);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int warp = 0; warp < warps; warp++) total += sums[warp];
    factor = rsqrtf(total / static_cast<float>(p.inputs) + p.epsilon);
  }
  const auto write = [&](int eight, float eightValues[8]) {
    if (p.normWeight) {
      float weights[8];
      loadEight(p, p.normWeight, eight, weights);
#pragma unroll
      for (int j = 0; j < 8; j++) eightValues[j] *= factor * weights[j];
    }
    out[eight] = make_uint4(packHalves(eightValues[0], eightValues[4]), packHalves(eightValues[1], eightValues[5]),
                            packHalves(eightValues[2], eightValues[6]), packHalves(eightValues[3], eightValues[7]));
  };
#pragma unroll
  for (int i = 0; i < held; i++) {
    const int eight = static_cast<int>(threadIdx.x) + threads * i;
    if (eight < used) write(eight, values[i]);
  }
  for (int eight = static_cast<int>(threadIdx.x) + threads * held; eight < used; eight += threads) {
    float others[8];
    loadEight(p, x, eight, others);
    write(eight, others);
  }
  for (int eight = used + static_cast<int>(threadIdx.x); eight < eights; eight += threads) {
    out[eight] = make_uint4(0, 0, 0, 0);
  }
}

// What becomes of a sum of one output: the bias, the activation, the residual. `gated` is the sum of what it gates, 8
// places on. `place` is the tile's times 16 plus the one in it.
__device__ __forceinline__ void store(const ProductParameters& p, int place, int token, bool kept, float sum,
                                      float gated) {
  const int output = p.outputOf[place];
  if (output < 0) return;
  const size_t at = static_cast<size_t>(token) * static_cast<size_t>(p.outputs) + static_cast<size_t>(output);
  if (!kept) {
    sum = 0;
  } else {
    if (p.bias) sum += p.bias[place];
    if (p.cut == static_cast<int>(Cut::gated)) {
      if (p.bias) gated += p.bias[place + tileRows / 2];
      sum = silu(sum) * gated;
    }
    if (p.activation == static_cast<int>(Activation::squaredRelu)) sum = sum > 0 ? sum * sum : 0;
  }
  p.y[at] = p.residual ? sum + p.residual[at] : sum;
}

// A lane's part of a unit of a tile.
struct Part {
  uint4 codes[2];
  uint32_t scales;
};

// Parts that a warp has on the way.
constexpr int depth = 4;

// At most 8 `columns8` rows of the batch: bound by reading the weights. A block takes tile after tile; its warps share
// the units and then add up. With `own` there is one row, which every block prepares for itself.
template <int columns8, bool own>
__device__ __forceinline__ void multiplyFew(const ProductParameters& p) {
  constexpr int columns = own ? 1 : 8 * columns8;
  constexpr int turnFloats = warps * tileRows * columns;
  float* const sums = dynamicShared<float>();  // [2][warps][tileRows][columns]
  uint4* const ownRow = reinterpret_cast<uint4*>(sums + 2 * turnFloats);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int stride = static_cast<int>(gridDim.x);
  int tile = static_cast<int>(blockIdx.x);

  const uint8_t* const codes = p.codes + lane * 16;
  const uint32_t* const scales = p.scales + (t >> (2 - p.unitBlocksShift)) * 8 + g;
  const auto load = [&](int tileOfPart, int unit) {
    const size_t at = static_cast<size_t>(tileOfPart) * static_cast<size_t>(p.units) + static_cast<size_t>(unit);
    Part part;
    part.codes[0] = loadStreaming(codes + at * unitBytes);
    part.codes[1] = loadStreaming(codes + at * unitBytes + unitBytes / 2);
    part.scales = scales[at << p.unitBlocksShift << 3];
    return part;
  };

  // Weights are constants: those that are needed whatever the levels are asked for before the previous launch is done.
  Part parts[depth];
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const int unit = warp + warps * i;
    if (tile < p.certainTiles && unit < p.certainUnits) parts[i] = load(tile, unit);
  }
  waitForPrevious();
  letNextStart();
  const int activeTiles = tilesUsedFrom(p, 0), activeUnits = unitsUsedFrom(p, 0);
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const int unit = warp + warps * i;
    const bool certain = tile < p.certainTiles && unit < p.certainUnits;
    if (!certain && tile < activeTiles && unit < activeUnits) parts[i] = load(tile, unit);
  }
  if (own) {
    prepareRow(p, 0, activeUnits * unitEights, sums, ownRow);
    __syncthreads();
  }
  const int steps = (activeUnits - warp + warps - 1) / warps;

  for (int turn = 0; tile < activeTiles; tile += stride, turn ^= 1) {
    float accumulated[columns8][4] = {};
    const int nextTile = tile + stride;
    for (int base = 0; base < steps; base += depth) {
#pragma unroll
      for (int i = 0; i < depth; i++) {
        const int step = base + i;
        if (step < steps) {
          const Part part = parts[i];
          if (step + depth < steps) {
            parts[i] = load(tile, warp + warps * (step + depth));
          }
          const int eight = (warp + warps * step) * unitEights + t * 4;
          const __half2 both = halvesOf(part.scales);
          const __half2 upperScale = __half2half2(__low2half(both)), lowerScale = __half2half2(__high2half(both));
#pragma unroll
          for (int word = 0; word < 4; word++) {
            uint32_t upper[4], lower[4];
            unpack(wordOf(part.codes[0], word), upperScale, upper);
            unpack(wordOf(part.codes[1], word), lowerScale, lower);
            const uint32_t first[4] = {upper[0], lower[0], upper[1], lower[1]};
            const uint32_t second[4] = {upper[2], lower[2], upper[3], lower[3]};
#pragma unroll
            for (int n = 0; n < columns8; n++) {
              uint4 x = make_uint4(0, 0, 0, 0);
              const int token = 8 * n + g;
              if (token < (own ? 1 : p.rows)) {
                x = own ? ownRow[eight + word]
                        : reinterpret_cast<const uint4*>(
                              p.prepared)[static_cast<size_t>(token) * static_cast<size_t>(p.units * unitEights) +
                                          static_cast<size_t>(eight + word)];
              }
              const uint32_t firstX[2] = {x.x, x.y}, secondX[2] = {x.z, x.w};
              mma16816(accumulated[n], first, firstX);
              mma16816(accumulated[n], second, secondX);
            }
          }
        }
        // The last parts of a tile make room for the first of the next.
        if (base + depth >= steps && i < steps && nextTile < activeTiles) {
          parts[i] = load(nextTile, warp + warps * i);
        }
      }
    }
    float* const turnSums = sums + turn * turnFloats + warp * tileRows * columns;
    if (own) {
      if (t == 0) {
        turnSums[g] = accumulated[0][0];
        turnSums[g + 8] = accumulated[0][2];
      }
    } else {
#pragma unroll
      for (int n = 0; n < columns8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) turnSums[(g + 8 * (i / 2)) * columns + 8 * n + 2 * t + i % 2] = accumulated[n][i];
      }
    }
    __syncthreads();
    const bool gated = p.cut == static_cast<int>(Cut::gated);
    const int slots = gated ? tileRows / 2 : tileRows;
    const int keptRows = own ? 1 : rowsOfTile(p, tile);
    for (int i = static_cast<int>(threadIdx.x); i < slots * p.rows; i += threads) {
      const int slot = i % slots, token = i / slots;
      float sum = 0, other = 0;
#pragma unroll
      for (int w = 0; w < warps; w++) {
        const float* const of = sums + turn * turnFloats + w * tileRows * columns;
        sum += of[slot * columns + token];
        if (gated) other += of[(slot + 8) * columns + token];
      }
      store(p, tile * tileRows + slot, token, token < keptRows, sum, other);
    }
  }
  // Tiles that no row keeps.
  for (; tile < p.tiles; tile += stride) {
    const int slots = p.cut == static_cast<int>(Cut::gated) ? tileRows / 2 : tileRows;
    for (int i = static_cast<int>(threadIdx.x); i < slots * p.rows; i += threads) {
      store(p, tile * tileRows + i % slots, i / slots, false, 0, 0);
    }
  }
}

// Many rows: bound by the tensor cores. A block takes 8 tiles and 128 rows of the batch, through two stages of shared
// memory of one unit each; its 8 warps take 2 tiles and 64 rows each.
constexpr int blockTiles = 8, blockTokens = 128;
constexpr int warpTiles = 2, warpColumns8 = 8;

// Where the 16 bytes of a lane's word of a prepared row lie in shared memory, so that neither the lanes that write nor
// those that read meet in a bank.
__device__ __forceinline__ int swizzled(int token, int t, int word) {
  return token * unitEights + ((word * 4 + t) ^ (token & 1) << 2);
}

__device__ __forceinline__ void multiplyTiles(const ProductParameters& p) {
  constexpr int xChunks = blockTokens * unitEights, unitChunks = unitBytes / 16;
  constexpr int stageChunks = xChunks + blockTiles * unitChunks;
  uint4* const shared = dynamicShared<uint4>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int firstToken = static_cast<int>(blockIdx.x) * blockTokens,
            firstTile = static_cast<int>(blockIdx.y) * blockTiles;
  const int warpTile = warp % 4 * warpTiles, warpToken = warp / 4 * warpColumns8 * 8;
  const auto* const prepared = reinterpret_cast<const uint4*>(p.prepared);
  waitForPrevious();
  letNextStart();
  const int units = unitsUsedFrom(p, firstToken);
  const bool anything = firstTile < tilesUsedFrom(p, firstToken);

  // What this thread copies of every unit: an eight of every 16th row, and two pieces of codes.
  const int eight = thread % unitEights, copiedToken = thread / unitEights;
  const size_t rowChunks = static_cast<size_t>(p.units) * unitEights;
  const uint4* const xFrom =
      prepared + static_cast<size_t>(firstToken + copiedToken) * rowChunks + static_cast<size_t>(eight);
  const auto fill = [&](int unit) {
    uint4* const stage = shared + unit % 2 * stageChunks;
#pragma unroll
    for (int i = 0; i < blockTokens / (threads / unitEights); i++) {
      const int token = copiedToken + i * (threads / unitEights);
      const bool there = firstToken + token < p.rows;
      cpAsync16(
          stage + swizzled(token, eight / 4, eight % 4),
          there ? xFrom + static_cast<size_t>(i * (threads / unitEights)) * rowChunks + unit * unitEights : prepared,
          there ? 16 : 0);
    }
#pragma unroll
    for (int i = 0; i < blockTiles * unitChunks / threads; i++) {
      const int chunk = thread + threads * i, tile = min(firstTile + chunk / unitChunks, p.tiles - 1);
      const size_t at = static_cast<size_t>(tile) * static_cast<size_t>(p.units) + static_cast<size_t>(unit);
      cpAsync16(stage + xChunks + chunk, p.codes + at * unitBytes + chunk % unitChunks * 16);
    }
    cpAsyncCommit();
  };
  const uint32_t* const scales = p.scales + (t >> (2 - p.unitBlocksShift)) * 8 + g;
  float accumulated[warpTiles][warpColumns8][4] = {};
  uint32_t nextScales[warpTiles];
  const auto loadScales = [&](int unit) {
#pragma unroll
    for (int m = 0; m < warpTiles; m++) {
      const int tile = min(firstTile + warpTile + m, p.tiles - 1);
      const size_t at = static_cast<size_t>(tile) * static_cast<size_t>(p.units) + static_cast<size_t>(unit);
      nextScales[m] = scales[at << p.unitBlocksShift << 3];
    }
  };
  if (anything && units > 0) {
    fill(0);
    loadScales(0);
    for (int unit = 0; unit < units; unit++) {
      cpAsyncWait<0>();
      __syncthreads();  // the unit is there, and nobody reads the other stage any more
      if (unit + 1 < units) fill(unit + 1);
      const uint4* const stage = shared + unit % 2 * stageChunks;
      uint4 codes[warpTiles][2];
      __half2 factors[warpTiles][2];
#pragma unroll
      for (int m = 0; m < warpTiles; m++) {
        const uint4* const tile = stage + xChunks + (warpTile + m) * unitChunks + lane;
        codes[m][0] = tile[0];
        codes[m][1] = tile[unitChunks / 2];
        const __half2 both = halvesOf(nextScales[m]);
        factors[m][0] = __half2half2(__low2half(both));
        factors[m][1] = __half2half2(__high2half(both));
      }
      if (unit + 1 < units) loadScales(unit + 1);
#pragma unroll
      for (int word = 0; word < 4; word++) {
        uint32_t pairs[warpTiles][2][4];
#pragma unroll
        for (int m = 0; m < warpTiles; m++) {
          unpack(wordOf(codes[m][0], word), factors[m][0], pairs[m][0]);
          unpack(wordOf(codes[m][1], word), factors[m][1], pairs[m][1]);
        }
#pragma unroll
        for (int n = 0; n < warpColumns8; n++) {
          const uint4 x = stage[swizzled(warpToken + 8 * n + g, t, word)];
          const uint32_t firstX[2] = {x.x, x.y}, secondX[2] = {x.z, x.w};
#pragma unroll
          for (int m = 0; m < warpTiles; m++) {
            const uint32_t first[4] = {pairs[m][0][0], pairs[m][1][0], pairs[m][0][1], pairs[m][1][1]};
            const uint32_t second[4] = {pairs[m][0][2], pairs[m][1][2], pairs[m][0][3], pairs[m][1][3]};
            mma16816(accumulated[m][n], first, firstX);
            mma16816(accumulated[m][n], second, secondX);
          }
        }
      }
    }
  }
  const bool gated = p.cut == static_cast<int>(Cut::gated);
#pragma unroll
  for (int m = 0; m < warpTiles; m++) {
    const int tile = firstTile + warpTile + m;
    if (tile >= p.tiles) continue;
    const int keptRows = rowsOfTile(p, tile);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (half == 1 && gated) continue;
#pragma unroll
      for (int n = 0; n < warpColumns8; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int token = firstToken + warpToken + 8 * n + 2 * t + i;
          if (token < p.rows) {
            store(p, tile * tileRows + g + 8 * half, token, token < keptRows, accumulated[m][n][2 * half + i],
                  accumulated[m][n][2 + i]);
          }
        }
      }
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) prepareRows(const __grid_constant__ ProductParameters p) {
  __shared__ float sums[warps];
  waitForPrevious();
  letNextStart();
  const int row = static_cast<int>(blockIdx.x), eights = p.units * unitEights;
  prepareRow(p, row, eights, sums,
             reinterpret_cast<uint4*>(p.prepared) + static_cast<size_t>(row) * static_cast<size_t>(eights));
}

extern "C" __global__ void __launch_bounds__(threads, 3) multiplyOne(const __grid_constant__ ProductParameters p) {
  multiplyFew<1, true>(p);
}

extern "C" __global__ void __launch_bounds__(threads, 3) multiplyFew8(const __grid_constant__ ProductParameters p) {
  multiplyFew<1, false>(p);
}

extern "C" __global__ void __launch_bounds__(threads, 2) multiplyFew16(const __grid_constant__ ProductParameters p) {
  multiplyFew<2, false>(p);
}

extern "C" __global__ void __launch_bounds__(threads, 2) multiplyFew32(const __grid_constant__ ProductParameters p) {
  multiplyFew<4, false>(p);
}

extern "C" __global__ void __launch_bounds__(threads, 2) multiplyMany(const __grid_constant__ ProductParameters p) {
  multiplyTiles(p);
}

}  // namespace espalier::cuda

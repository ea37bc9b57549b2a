// x W^T with W int4 (W4A16): the batch's rows as halves, the weights turned into halves in registers, sums in floats by
// the tensor cores' m16n8k16, in which the weights are the 16 rows and the batch is the 8 columns.
//
// A unit is 128 stored columns of a row. Lane 4 g + t of a warp reads 16 bytes of it, columns 32 t to 32 t + 31, of
// rows g and g + 8 of a tile: 64 bytes side by side for the four lanes of a row. The order in which a product's columns
// are summed is free as long as both operands have it, so a lane's eight codes of one word are taken as they fall out
// of it: the pairs (0, 4), (1, 5), (2, 6), (3, 7). The batch's rows are prepared to match.
#include "device.cuh"
#include "prefix_product.h"

namespace espalier::cuda {
namespace {

// Columns that a lane takes of a unit. No block of scales is smaller, so one scale belongs to them.
constexpr int runColumns = 32;

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

__device__ __forceinline__ int rowsOf(const ProductParameters& p, int level) {
  return p.rowsUpTo ? static_cast<int>(p.rowsUpTo[level]) : p.rows;
}

// Tiles, or units, that some row from `firstRow` on uses. Rows are widest first, so row `firstRow` itself decides.
template <bool ofUnits>
__device__ __forceinline__ int activeParts(const ProductParameters& p, int firstRow) {
  const int all = ofUnits ? p.units : p.tiles;
  if (ofUnits != (p.cut == static_cast<int>(Cut::inputs))) return all;
  for (int c = 0; c < p.segments; c++) {
    if (rowsOf(p, p.segment[c].level) <= firstRow) return ofUnits ? p.segment[c].firstUnit : p.segment[c].firstTile;
  }
  return all;
}

__device__ __forceinline__ int segmentOfTile(const ProductParameters& p, int tile) {
  int c = 0;
  while (c + 1 < p.segments && p.segment[c + 1].firstTile <= tile) c++;
  return c;
}

__device__ __forceinline__ int segmentOfUnit(const ProductParameters& p, int unit) {
  int c = 0;
  while (c + 1 < p.segments && p.segment[c + 1].firstUnit <= unit) c++;
  return c;
}

// The stored row in place `slot` of a tile of a segment. Where outputs are gated, the upper half of a tile holds gates
// and the lower half what they gate. Behind the last row the last one is read again; `isRow` tells.
__device__ __forceinline__ int storedRow(const ProductParameters& p, const Segment& s, int tile, int slot) {
  const int local = tile - s.firstTile;
  if (p.cut == static_cast<int>(Cut::gated)) {
    const int channel = min(local * 8 + (slot & 7), s.widths[0] - 1);
    return slot < 8 ? channel : s.widths[0] + channel;
  }
  return min(local * tileRows + slot, s.rows - 1);
}

__device__ __forceinline__ bool isRow(const ProductParameters& p, const Segment& s, int tile, int slot) {
  const int local = tile - s.firstTile;
  return p.cut == static_cast<int>(Cut::gated) ? local * 8 + (slot & 7) < s.widths[0]
                                               : local * tileRows + slot < s.rows;
}

// The output that a stored row computes.
__device__ __forceinline__ int outputOf(const ProductParameters& p, const Segment& s, int row) {
  if (p.cut == static_cast<int>(Cut::inputs)) return row;
  if (p.cut == static_cast<int>(Cut::gated)) return s.starts[0] + row;
  for (int axis = 0;; axis++) {
    const int width = s.widths[axis], channels = p.groups[axis] * width;
    if (row < channels || axis + 1 == p.axes) {
      return p.axisStarts[axis] + row / width * p.widest[axis] + s.starts[axis] + row % width;
    }
    row -= channels;
  }
}

// The input that a stored column multiplies.
__device__ __forceinline__ int inputOf(const ProductParameters& p, const Segment& s, int column) {
  if (p.cut != static_cast<int>(Cut::inputs)) return column;
  const int width = s.widths[0];
  return column / width * p.widest[0] + s.starts[0] + column % width;
}

// A lane's part of a unit of two rows of a tile.
struct Part {
  uint4 codes[2];
  uint16_t scales[2];
};

__device__ __forceinline__ Part loadPart(const ProductParameters& p, int tile, int unit, int lane) {
  const bool inputsCut = p.cut == static_cast<int>(Cut::inputs);
  const Segment& s = p.segment[inputsCut ? segmentOfUnit(p, unit) : segmentOfTile(p, tile)];
  const int run = (unit - s.firstUnit) * (unitColumns / runColumns) + lane % 4;
  const int runs = s.blocks << (p.blockShift - 5);
  Part part;
  if (run >= runs) {
    part.codes[0] = part.codes[1] = make_uint4(0, 0, 0, 0);
    part.scales[0] = part.scales[1] = 0;
    return part;
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const size_t row = static_cast<size_t>(storedRow(p, s, tile, lane / 4 + 8 * half));
    part.codes[half] = loadStreaming(s.codes + (row * static_cast<size_t>(runs) + static_cast<size_t>(run)) * 16);
    part.scales[half] = s.scales[row * static_cast<size_t>(s.blocks) + static_cast<size_t>(run >> (p.blockShift - 5))];
  }
  return part;
}

__device__ __forceinline__ __half2 bothHalves(uint16_t bits) {
  return halvesOf(static_cast<uint32_t>(bits) | static_cast<uint32_t>(bits) << 16);
}

__device__ __forceinline__ uint32_t wordOf(const uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// The root mean square norm's factor of a row: the block's threads together. `sums` is shared, one float per warp.
__device__ __forceinline__ float normFactor(const ProductParameters& p, const float* row, float* sums) {
  float sum = 0;
  for (int i = threadIdx.x; i < p.inputs; i += blockDim.x) sum += row[i] * row[i];
  sum = warpSum(sum);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; warp++) total += sums[warp];
  return rsqrtf(total / static_cast<float>(p.inputs) + p.epsilon);
}

// Writes a row of the batch as halves, normalized, in the order of the stored columns; zeros where there is no column
// and in segments that the row's level does not keep. The block's threads together.
__device__ __forceinline__ void prepareRow(const ProductParameters& p, int row, float* sums, uint4* out) {
  const float* x = p.x + static_cast<size_t>(row) * static_cast<size_t>(p.inputs);
  const float factor = p.normWeight ? normFactor(p, x, sums) : 1.0f;
  const bool inputsCut = p.cut == static_cast<int>(Cut::inputs);
  for (int eight = threadIdx.x; eight < p.units * (unitColumns / 8); eight += blockDim.x) {
    const int unit = eight / (unitColumns / 8);
    const Segment& s = p.segment[inputsCut ? segmentOfUnit(p, unit) : 0];
    const int first = 8 * eight - s.firstUnit * unitColumns;
    const bool kept = !inputsCut || row < rowsOf(p, s.level);
    float values[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      values[i] = 0;
      if (kept && first + i < s.columns) {
        const int input = inputOf(p, s, first + i);
        values[i] = p.normWeight ? x[input] * factor * p.normWeight[input] : x[input];
      }
    }
    out[eight] = make_uint4(packHalves(values[0], values[4]), packHalves(values[1], values[5]),
                            packHalves(values[2], values[6]), packHalves(values[3], values[7]));
  }
}

// What becomes of a sum: the bias, the activation, the residual. `sum` is of stored row `row`; where outputs are gated,
// `gated` is the sum of the row that it gates.
__device__ __forceinline__ void store(const ProductParameters& p, const Segment& s, int row, int output, int token,
                                      float sum, float gated) {
  const size_t at = static_cast<size_t>(token) * static_cast<size_t>(p.outputs) + static_cast<size_t>(output);
  if (p.cut == static_cast<int>(Cut::inputs)) {
    for (int c = 0; c < p.segments; c++) {
      if (p.segment[c].bias) sum += p.segment[c].bias[row];
    }
  } else if (token >= rowsOf(p, s.level)) {
    sum = 0;
  } else if (p.cut == static_cast<int>(Cut::gated)) {
    if (s.bias) sum += s.bias[row], gated += s.bias[row + s.widths[0]];
    sum = silu(sum) * gated;
  } else {
    if (s.bias) sum += s.bias[row];
    if (p.activation == static_cast<int>(Activation::squaredRelu)) sum = sum > 0 ? sum * sum : 0;
  }
  p.y[at] = p.residual ? sum + p.residual[at] : sum;
}

constexpr int warps = 8;
// Parts of units that a warp has on the way.
constexpr int depth = 4;

// Up to 8 `columns8` rows of the batch: bound by reading the weights. A block takes a tile after another; its warps
// share the units, and then add up.
template <int columns8, bool preparesItself>
__device__ __forceinline__ void multiplyFew(const ProductParameters& p) {
  constexpr int columns = 8 * columns8;
  float* const sums = dynamicShared<float>();  // [2][warps][tileRows][columns]
  uint4* const own = reinterpret_cast<uint4*>(sums + 2 * warps * tileRows * columns);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int stride = static_cast<int>(gridDim.x);
  int tile = static_cast<int>(blockIdx.x);

  // Weights are constants: those that are needed whatever the levels are asked for before the previous launch is done.
  Part parts[depth];
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const int unit = warp + warps * i;
    if (tile < p.certainTiles && unit < p.certainUnits) parts[i] = loadPart(p, tile, unit, lane);
  }
  waitForPrevious();
  letNextStart();
  const int activeTiles = activeParts<false>(p, 0), activeUnits = activeParts<true>(p, 0);
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const int unit = warp + warps * i;
    const bool certain = tile < p.certainTiles && unit < p.certainUnits;
    if (!certain && tile < activeTiles && unit < activeUnits) parts[i] = loadPart(p, tile, unit, lane);
  }
  if (preparesItself) {
    prepareRow(p, 0, sums, own);
    __syncthreads();
  }
  const int steps = (activeUnits - warp + warps - 1) / warps;

  for (int turn = 0; tile < activeTiles; tile += stride, turn ^= 1) {
    float accumulated[columns8][4] = {};
    const int nextTile = tile + stride;
    for (int base = 0; base < steps; base += depth) {
#pragma unroll
      for (int i = 0; i < depth; i++) {
        if (base + i < steps) {
          const Part part = parts[i];
          const int unit = warp + warps * (base + i);
#pragma unroll
          for (int word = 0; word < 4; word++) {
            uint32_t upper[4], lower[4];
            unpack(wordOf(part.codes[0], word), bothHalves(part.scales[0]), upper);
            unpack(wordOf(part.codes[1], word), bothHalves(part.scales[1]), lower);
#pragma unroll
            for (int n = 0; n < columns8; n++) {
              uint4 x = make_uint4(0, 0, 0, 0);
              const int token = 8 * n + g, eight = unit * (unitColumns / 8) + t * 4 + word;
              if (token < p.rows) {
                if (preparesItself) {
                  x = own[eight];
                } else {
                  const auto* prepared = reinterpret_cast<const uint4*>(p.prepared);
                  x = prepared[static_cast<size_t>(token) * static_cast<size_t>(p.units * (unitColumns / 8)) +
                               static_cast<size_t>(eight)];
                }
              }
              const uint32_t first[4] = {upper[0], lower[0], upper[1], lower[1]}, firstX[2] = {x.x, x.y};
              const uint32_t second[4] = {upper[2], lower[2], upper[3], lower[3]}, secondX[2] = {x.z, x.w};
              mma16816(accumulated[n], first, firstX);
              mma16816(accumulated[n], second, secondX);
            }
          }
        }
        const int nextStep = base + i + depth;
        if (nextStep < steps) {
          parts[i] = loadPart(p, tile, warp + warps * nextStep, lane);
        } else if (base + depth >= steps && i < steps && nextTile < activeTiles) {
          parts[i] = loadPart(p, nextTile, warp + warps * i, lane);
        }
      }
    }
    float* const turnSums = sums + turn * warps * tileRows * columns;
#pragma unroll
    for (int n = 0; n < columns8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        turnSums[(warp * tileRows + g + 8 * (i / 2)) * columns + 8 * n + 2 * t + i % 2] = accumulated[n][i];
      }
    }
    __syncthreads();
    const Segment& s = p.segment[p.cut == static_cast<int>(Cut::inputs) ? 0 : segmentOfTile(p, tile)];
    const bool gated = p.cut == static_cast<int>(Cut::gated);
    const int slots = gated ? tileRows / 2 : tileRows;
    for (int i = static_cast<int>(threadIdx.x); i < slots * p.rows; i += static_cast<int>(blockDim.x)) {
      const int slot = i % slots, token = i / slots;
      if (!isRow(p, s, tile, slot)) continue;
      float sum = 0, other = 0;
      for (int w = 0; w < warps; w++) {
        sum += turnSums[(w * tileRows + slot) * columns + token];
        if (gated) other += turnSums[(w * tileRows + slot + 8) * columns + token];
      }
      const int row = storedRow(p, s, tile, slot);
      store(p, s, row, outputOf(p, s, row), token, sum, other);
    }
  }
  // Tiles that no row keeps.
  for (; tile < p.tiles; tile += stride) {
    const Segment& s = p.segment[segmentOfTile(p, tile)];
    const int slots = p.cut == static_cast<int>(Cut::gated) ? tileRows / 2 : tileRows;
    for (int i = static_cast<int>(threadIdx.x); i < slots * p.rows; i += static_cast<int>(blockDim.x)) {
      if (!isRow(p, s, tile, i % slots)) continue;
      const int row = storedRow(p, s, tile, i % slots);
      store(p, s, row, outputOf(p, s, row), i / slots, 0, 0);
    }
  }
}

// Many rows: bound by the tensor cores. A block takes 128 stored rows and 128 rows of the batch, through two stages of
// shared memory of one unit each; its 8 warps take 32 by 64 of them each.
constexpr int blockTiles = 8, blockTokens = 128;
constexpr int warpTiles = 2, warpColumns8 = 8;

// Where the 16 bytes of word-column `t`, word `word` of a prepared row lie in shared memory, so that neither the lanes
// that write nor those that read meet in a bank.
__device__ __forceinline__ int swizzled(int token, int t, int word) {
  return token * (unitColumns / 8) + ((word * 4 + t) ^ (token & 1) << 2);
}

__device__ __forceinline__ void multiplyTile(const ProductParameters& p) {
  constexpr int xChunks = blockTokens * unitColumns / 8, codeChunks = blockTiles * tileRows * 4;
  constexpr int stageChunks = xChunks + codeChunks;
  uint4* const shared = dynamicShared<uint4>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int firstToken = static_cast<int>(blockIdx.x) * blockTokens,
            firstTile = static_cast<int>(blockIdx.y) * blockTiles;
  const bool inputsCut = p.cut == static_cast<int>(Cut::inputs), gated = p.cut == static_cast<int>(Cut::gated);
  const int warpTile = firstTile + warp % 4 * warpTiles, warpToken = warp / 4 * warpColumns8 * 8;
  waitForPrevious();
  letNextStart();
  const int units = activeParts<true>(p, firstToken);
  const bool anything = firstTile < activeParts<false>(p, firstToken);

  float accumulated[warpTiles][warpColumns8][4] = {};
  const auto fill = [&](int unit) {
    uint4* const stage = shared + unit % 2 * stageChunks;
    const auto* prepared = reinterpret_cast<const uint4*>(p.prepared);
#pragma unroll
    for (int i = thread; i < xChunks; i += 256) {
      const int token = i / (unitColumns / 8), eight = i % (unitColumns / 8);
      const bool there = firstToken + token < p.rows;
      const size_t row = static_cast<size_t>(there ? firstToken + token : 0);
      cpAsync16(stage + swizzled(token, eight / 4, eight % 4),
                prepared + (row * static_cast<size_t>(p.units) + static_cast<size_t>(unit)) * (unitColumns / 8) + eight,
                there ? 16 : 0);
    }
#pragma unroll
    for (int i = thread; i < codeChunks; i += 256) {
      const int slot = i / 4, tile = min(firstTile + slot / tileRows, p.tiles - 1);
      const Segment& s = p.segment[inputsCut ? segmentOfUnit(p, unit) : segmentOfTile(p, tile)];
      const int run = (unit - s.firstUnit) * (unitColumns / runColumns) + i % 4, runs = s.blocks << (p.blockShift - 5);
      const size_t row = static_cast<size_t>(storedRow(p, s, tile, slot % tileRows));
      const size_t there = static_cast<size_t>(min(run, runs - 1));
      cpAsync16(stage + xChunks + i, s.codes + (row * static_cast<size_t>(runs) + there) * 16, run < runs ? 16 : 0);
    }
    cpAsyncCommit();
  };
  const auto scaleOf = [&](int unit, int tile, int slot) -> uint16_t {
    const int nearest = min(tile, p.tiles - 1);
    const Segment& s = p.segment[inputsCut ? segmentOfUnit(p, unit) : segmentOfTile(p, nearest)];
    const int run = (unit - s.firstUnit) * (unitColumns / runColumns) + t, runs = s.blocks << (p.blockShift - 5);
    const size_t row = static_cast<size_t>(storedRow(p, s, nearest, slot));
    return run < runs ? s.scales[row * static_cast<size_t>(s.blocks) + static_cast<size_t>(run >> (p.blockShift - 5))]
                      : static_cast<uint16_t>(0);
  };
  if (anything) {
    uint16_t scales[warpTiles][2];
    const auto loadScales = [&](int unit) {
#pragma unroll
      for (int m = 0; m < warpTiles; m++) {
        scales[m][0] = scaleOf(unit, warpTile + m, g);
        scales[m][1] = scaleOf(unit, warpTile + m, g + 8);
      }
    };
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
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int slot = (warp % 4 * warpTiles + m) * tileRows + g + 8 * half;
          codes[m][half] = stage[xChunks + slot * 4 + t];
          factors[m][half] = bothHalves(scales[m][half]);
        }
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
#pragma unroll
  for (int m = 0; m < warpTiles; m++) {
    const int tile = warpTile + m;
    if (tile >= p.tiles) continue;
    const Segment& s = p.segment[inputsCut ? 0 : segmentOfTile(p, tile)];
#pragma unroll
    for (int half = 0; half < (gated ? 1 : 2); half++) {
      const int slot = g + 8 * half;
      if (!isRow(p, s, tile, slot)) continue;
      const int row = storedRow(p, s, tile, slot), output = outputOf(p, s, row);
#pragma unroll
      for (int n = 0; n < warpColumns8; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int token = firstToken + warpToken + 8 * n + 2 * t + i;
          if (token < p.rows) {
            store(p, s, row, output, token, half == 0 ? accumulated[m][n][i] : accumulated[m][n][2 + i],
                  accumulated[m][n][2 + i]);
          }
        }
      }
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) prepareRows(const __grid_constant__ ProductParameters p) {
  float* const sums = dynamicShared<float>();
  waitForPrevious();
  letNextStart();
  const int row = static_cast<int>(blockIdx.x);
  const size_t eights = static_cast<size_t>(p.units) * (unitColumns / 8);
  prepareRow(p, row, sums, reinterpret_cast<uint4*>(p.prepared) + static_cast<size_t>(row) * eights);
}

extern "C" __global__ void __launch_bounds__(256, 3) multiplyOne(const __grid_constant__ ProductParameters p) {
  multiplyFew<1, true>(p);
}

extern "C" __global__ void __launch_bounds__(256, 3) multiplyFew8(const __grid_constant__ ProductParameters p) {
  multiplyFew<1, false>(p);
}

extern "C" __global__ void __launch_bounds__(256, 2) multiplyFew16(const __grid_constant__ ProductParameters p) {
  multiplyFew<2, false>(p);
}

extern "C" __global__ void __launch_bounds__(256, 2) multiplyFew32(const __grid_constant__ ProductParameters p) {
  multiplyFew<4, false>(p);
}

extern "C" __global__ void __launch_bounds__(256, 2) multiplyMany(const __grid_constant__ ProductParameters p) {
  multiplyTile(p);
}

}  // namespace espalier::cuda

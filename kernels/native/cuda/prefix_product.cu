// x W^T with W int4 (W4A16): the batch's rows as halves, the weights turned into halves in registers, sums in floats by
// the tensor cores' m16n8k16, in which the weights are the 16 rows and the batch is the 8 columns.
#include "product_device.cuh"

namespace espalier::cuda {
namespace {

// Of the kernels that do not take few rows.
constexpr int threads = 256;

// A lane's part of a unit of a tile.
struct Part {
  uint4 codes[2];
  uint32_t scales;
};

constexpr int depth = fewRows.depth;
// Behind a block's own row: what lanes of other rows read.
constexpr int zeroEights = 4;

// At most 8 `columns8` rows of the batch: bound by reading the weights. A block takes tile after tile; its warps share
// the units and then add up. With `own` there is one row, which every block prepares for itself. With `wholeUnits` a
// unit is one block of weights, and its sum is scaled instead of its weights.
template <int columns8, bool own, bool wholeUnits>
__device__ __forceinline__ void multiplyFew(const ProductParameters& p) {
  constexpr int warps = fewRows.warps, threads = 32 * warps, columns = own ? 1 : 8 * columns8;
  constexpr int turnFloats = warps * tileRows * columns;
  float* const sums = dynamicShared<float>();  // [2][warps][tileRows][columns]
  uint4* const ownRow = reinterpret_cast<uint4*>(sums + 2 * turnFloats);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int stride = static_cast<int>(gridDim.x);
  int tile = static_cast<int>(blockIdx.x);

  // Where the parts of a tile that are this lane's begin, and how far apart those of a warp's steps are.
  struct Source {
    const uint8_t* codes;
    const uint32_t* scales;
  };
  constexpr int codeStep = warps * unitBytes;
  const int scaleStep = (warps * 8) << p.unitBlocksShift;
  const auto sourceOf = [&](int ofTile) -> Source {
    const size_t at = static_cast<size_t>(ofTile) * static_cast<size_t>(p.units) + static_cast<size_t>(warp);
    return {p.codes + at * unitBytes + lane * 16,
            p.scales + (at << p.unitBlocksShift << 3) + (t >> (2 - p.unitBlocksShift)) * 8 + g};
  };
  const auto load = [&](const Source& source, int step) {
    Part part;
    part.codes[0] = loadStreaming(source.codes + step * codeStep);
    part.codes[1] = loadStreaming(source.codes + step * codeStep + unitBytes / 2);
    part.scales = __ldg(source.scales + step * scaleStep);
    return part;
  };
  Source source = sourceOf(tile), nextSource = source;
  const int zeros = p.units * unitEights;

  // Weights are constants: those that are needed whatever the levels are asked for before the previous launch is done.
  Part parts[depth];
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const int unit = warp + warps * i;
    if (tile < p.certainTiles && unit < p.certainUnits) parts[i] = load(source, i);
  }
  const float* normWeight = p.normWeight;
  if (own && normWeight && p.inputStep == 8) {
    float* const copy = reinterpret_cast<float*>(ownRow + p.units * unitEights + zeroEights);
    for (int i = 4 * static_cast<int>(threadIdx.x); i < p.inputs; i += 4 * threads) cpAsync16(copy + i, normWeight + i);
    cpAsyncCommit();
    normWeight = copy;
  }
  waitForPrevious();
  letNextStart();
  const int activeTiles = tilesUsedFrom(p, 0), activeUnits = unitsUsedFrom(p, 0);
#pragma unroll
  for (int i = 0; i < depth; i++) {
    const int unit = warp + warps * i;
    const bool certain = tile < p.certainTiles && unit < p.certainUnits;
    if (!certain && tile < activeTiles && unit < activeUnits) parts[i] = load(source, i);
  }
  if (own) {
    cpAsyncWait<0>();  // of the norm's weights; the norm has a barrier before it reads them
    prepareRow<threads>(p, normWeight, 0, activeUnits, sums, [&](int eight, uint4 pairs) { ownRow[eight] = pairs; });
    if (threadIdx.x < zeroEights) ownRow[zeros + static_cast<int>(threadIdx.x)] = make_uint4(0, 0, 0, 0);
    __syncthreads();
  }
  const int steps = (activeUnits - warp + warps - 1) / warps;
  const bool gated = p.cut == static_cast<int>(Cut::gated);
  const int slots = gated ? tileRows / 2 : tileRows;

  for (int count = 0; tile < activeTiles; tile += stride, count++, source = nextSource) {
    // One warp finishes a tile of one row, each in turn; what it needs for that is asked for now.
    const bool finishes = own && warp == count % warps && lane < tileRows;
    int output = -1;
    float residual = 0;
    if (finishes) {
      output = p.outputOf[tile * tileRows + lane];
      if (p.residual && output >= 0) residual = p.residual[output];
    }
    float accumulated[columns8][2][4] = {};
    const int nextTile = tile + stride;
    nextSource = sourceOf(min(nextTile, p.tiles - 1));
    for (int base = 0; base < steps; base += depth) {
#pragma unroll
      for (int i = 0; i < depth; i++) {
        const int step = base + i;
        if (step < steps) {
          const Part& part = parts[i];
          const int eight = (warp + warps * step) * unitEights + t * 4;
          // There is one row: the lanes of the others read zeros.
          const uint4* const ownX = ownRow + (g == 0 ? eight : zeros);
          const __half2 both = halvesOf(part.scales);
          const __half2 upperScale = __half2half2(__low2half(both)), lowerScale = __half2half2(__high2half(both));
          float unitSums[columns8][2][4];
          if (wholeUnits) {
#pragma unroll
            for (int j = 0; j < columns8 * 8; j++) unitSums[j / 8][j / 4 % 2][j % 4] = 0;
          }
#pragma unroll
          for (int word = 0; word < 4; word++) {
            uint32_t upper[4], lower[4];
            if (wholeUnits) {
              unpack(wordOf(part.codes[0], word), upper);
              unpack(wordOf(part.codes[1], word), lower);
            } else {
              unpack(wordOf(part.codes[0], word), upperScale, upper);
              unpack(wordOf(part.codes[1], word), lowerScale, lower);
            }
            const uint32_t first[4] = {upper[0], lower[0], upper[1], lower[1]};
            const uint32_t second[4] = {upper[2], lower[2], upper[3], lower[3]};
#pragma unroll
            for (int n = 0; n < columns8; n++) {
              uint4 x = make_uint4(0, 0, 0, 0);
              const int token = 8 * n + g;
              if (own) {
                x = ownX[word];
              } else if (token < p.rows) {
                x = reinterpret_cast<const uint4*>(
                    p.prepared)[static_cast<size_t>(token) * static_cast<size_t>(p.units * unitEights) +
                                static_cast<size_t>(eight + word)];
              }
              const uint32_t firstX[2] = {x.x, x.y}, secondX[2] = {x.z, x.w};
              mma16816(wholeUnits ? unitSums[n][0] : accumulated[n][0], first, firstX);
              mma16816(wholeUnits ? unitSums[n][1] : accumulated[n][1], second, secondX);
            }
          }
          if (wholeUnits) {
            const float upperFactor = __low2float(both), lowerFactor = __high2float(both);
#pragma unroll
            for (int n = 0; n < columns8; n++) {
#pragma unroll
              for (int j = 0; j < 4; j++) {
                if (own && j % 2 == 1) continue;  // there is no second column
                accumulated[n][0][j] = fmaf(j < 2 ? upperFactor : lowerFactor, unitSums[n][0][j] + unitSums[n][1][j],
                                            accumulated[n][0][j]);
              }
            }
          }
        }
        // The last parts of a tile make room for the first of the next.
        if (step + depth < steps) {
          parts[i] = load(source, step + depth);
        } else if (base + depth >= steps && i < steps && nextTile < activeTiles) {
          parts[i] = load(nextSource, i);
        }
      }
    }
    float* const turnSums = sums + count % 2 * turnFloats + warp * tileRows * columns;
    if (own) {
      if (t == 0) {
        turnSums[g] = accumulated[0][0][0] + accumulated[0][1][0];
        turnSums[g + 8] = accumulated[0][0][2] + accumulated[0][1][2];
      }
    } else {
#pragma unroll
      for (int n = 0; n < columns8; n++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
          turnSums[(g + 8 * (j / 2)) * columns + 8 * n + 2 * t + j % 2] = accumulated[n][0][j] + accumulated[n][1][j];
        }
      }
    }
    __syncthreads();
    const float* const tileSums = sums + count % 2 * turnFloats;
    if (own) {
      if (warp != count % warps) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < warps; w++) sum += lane < tileRows ? tileSums[w * tileRows + lane] : 0;
      const float other = __shfl_down_sync(allLanes, sum, tileRows / 2);
      if (lane >= slots || output < 0) continue;
      const int place = tile * tileRows + lane;
      const float result = finished(p, place, sum, other);
      p.y[output] = p.residual ? result + residual : result;
      continue;
    }
    const int keptRows = rowsOfTile(p, tile);
    for (int i = static_cast<int>(threadIdx.x); i < slots * p.rows; i += threads) {
      const int slot = i % slots, token = i / slots, place = tile * tileRows + slot;
      float sum = 0, other = 0;
#pragma unroll
      for (int w = 0; w < warps; w++) {
        const float* const of = tileSums + w * tileRows * columns;
        sum += of[slot * columns + token];
        if (gated) other += of[(slot + 8) * columns + token];
      }
      store(p, place, p.outputOf[place], token, token < keptRows, sum, other);
    }
  }
  // Tiles that no row keeps.
  for (; tile < p.tiles; tile += stride) {
    for (int i = static_cast<int>(threadIdx.x); i < slots * p.rows; i += threads) {
      const int place = tile * tileRows + i % slots;
      store(p, place, p.outputOf[place], i / slots, false, 0, 0);
    }
  }
}

// Where the 16 bytes of a lane's word of a prepared row lie in shared memory, so that neither the lanes that write nor
// those that read meet in a bank.
__device__ __forceinline__ int swizzled(int token, int t, int word) {
  return token * unitEights + ((word * 4 + t) ^ (token & 1) << 2);
}

// Many rows: bound by the tensor cores. Units go through stages of shared memory; the block's 8 warps are 4 times 2,
// each with the `warpTiles` and the 8 `warpEights` rows of the batch that `ManyShape` says.
template <int warpTiles, int warpEights>
__device__ __forceinline__ void multiplyMany(const ProductParameters& p) {
  using Shape = ManyShape<warpTiles, warpEights>;
  constexpr int blockTiles = Shape::tiles, blockTokens = Shape::tokens, stages = Shape::stages;
  constexpr int xChunks = blockTokens * unitEights, unitChunks = unitBytes / 16;
  constexpr int stageChunks = xChunks + blockTiles * unitChunks, rowsAtOnce = threads / unitEights;
  uint4* const shared = dynamicShared<uint4>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int firstToken = static_cast<int>(blockIdx.x) * blockTokens,
            firstTile = static_cast<int>(blockIdx.y) * blockTiles;
  const int warpTile = warp % 4 * warpTiles, warpToken = warp / 4 * warpEights * 8;
  const auto* const prepared = reinterpret_cast<const uint4*>(p.prepared);
  waitForPrevious();
  letNextStart();
  const Prefixes prefixes(p);
  const int units = firstTile < prefixes.tilesFrom(firstToken) ? prefixes.unitsFrom(firstToken) : 0;

  // What this thread copies of every unit: an eight of every 16th row, and pieces of codes.
  const int eight = thread % unitEights, copiedToken = thread / unitEights;
  const int rowEights = p.units * unitEights;
  const uint4* const xFrom = prepared + static_cast<size_t>(firstToken + copiedToken) * static_cast<size_t>(rowEights) +
                             static_cast<size_t>(eight);
  const auto fill = [&](int unit, int stage) {
    uint4* const to = shared + stage * stageChunks;
    const uint4* x = xFrom + unit * unitEights;
    const int step = afresh(rowsAtOnce * rowEights), rows = afresh(p.rows) - firstToken, units = afresh(p.units);
#pragma unroll
    for (int i = 0; i < blockTokens / rowsAtOnce; i++) {
      const int token = copiedToken + i * rowsAtOnce;
      const bool there = token < rows;
      cpAsync16(to + swizzled(token, eight / 4, eight % 4), there ? x : prepared, there ? 16 : 0);
      x += step;
    }
#pragma unroll
    for (int i = 0; i < blockTiles * unitChunks / threads; i++) {
      const int chunk = thread + threads * i, tile = min(firstTile + chunk / unitChunks, p.tiles - 1);
      const size_t at = static_cast<size_t>(tile) * static_cast<size_t>(units) + static_cast<size_t>(unit);
      cpAsync16(to + xChunks + chunk, p.codes + at * unitBytes + chunk % unitChunks * 16);
    }
  };
  const uint32_t* const scales = p.scales + (t >> (2 - p.unitBlocksShift)) * 8 + g;
  float sums[warpTiles][warpEights][4] = {};
  uint32_t nextScales[warpTiles];
  const auto loadScales = [&](int unit) {
    const int units = afresh(p.units);
#pragma unroll
    for (int m = 0; m < warpTiles; m++) {
      const int tile = min(firstTile + warpTile + m, p.tiles - 1);
      const size_t at = static_cast<size_t>(tile) * static_cast<size_t>(units) + static_cast<size_t>(unit);
      nextScales[m] = scales[at << p.unitBlocksShift << 3];
    }
  };
  if (units > 0) {
    loadScales(0);
#pragma unroll
    for (int i = 0; i < stages - 1; i++) {
      if (i < units) fill(i, i);
      cpAsyncCommit();
    }
  }
  for (int unit = 0, stage = 0, freed = stages - 1; unit < units; unit++) {
    cpAsyncWait<stages - 2>();
    __syncthreads();  // the unit is there, and nobody reads the one before any more
    if (unit + stages - 1 < units) fill(unit + stages - 1, freed);
    cpAsyncCommit();
    const uint4* const from = shared + stage * stageChunks;
    freed = stage;
    stage = stage + 1 == stages ? 0 : stage + 1;
    uint2 codes[warpTiles][2];  // two words each
    __half2 factors[warpTiles][2];
#pragma unroll
    for (int m = 0; m < warpTiles; m++) {
      const __half2 both = halvesOf(nextScales[m]);
      factors[m][0] = __half2half2(__low2half(both));
      factors[m][1] = __half2half2(__high2half(both));
    }
    if (unit + 1 < units) loadScales(unit + 1);
      // One pair of words after the other: the compiler would unpack far ahead, and then not have the registers.
#pragma unroll 1
    for (int pair = 0; pair < 2; pair++) {
#pragma unroll
      for (int m = 0; m < warpTiles; m++) {
        const uint4* const tile = from + xChunks + (warpTile + m) * unitChunks + lane;
        codes[m][0] = reinterpret_cast<const uint2*>(tile)[pair];
        codes[m][1] = reinterpret_cast<const uint2*>(tile + unitChunks / 2)[pair];
      }
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        uint32_t first[warpTiles][4], second[warpTiles][4];
#pragma unroll
        for (int m = 0; m < warpTiles; m++) {
          uint32_t upper[4], lower[4];
          unpack(odd == 0 ? codes[m][0].x : codes[m][0].y, factors[m][0], upper);
          unpack(odd == 0 ? codes[m][1].x : codes[m][1].y, factors[m][1], lower);
#pragma unroll
          for (int i = 0; i < 2; i++) {
            first[m][2 * i] = upper[i], first[m][2 * i + 1] = lower[i];
            second[m][2 * i] = upper[2 + i], second[m][2 * i + 1] = lower[2 + i];
          }
        }
        // Products of the same sums have others between them.
#pragma unroll
        for (int n = 0; n < warpEights; n++) {
          const uint4 x = from[swizzled(warpToken + 8 * n + g, t, 2 * pair + odd)];
          const uint32_t firstX[2] = {x.x, x.y}, secondX[2] = {x.z, x.w};
#pragma unroll
          for (int m = 0; m < warpTiles; m++) mma16816(sums[m][n], first[m], firstX);
#pragma unroll
          for (int m = 0; m < warpTiles; m++) mma16816(sums[m][n], second[m], secondX);
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < warpTiles; m++) {
    const int tile = firstTile + warpTile + m;
    if (tile < p.tiles) storeTile(p, tile, firstToken + warpToken, prefixes.rowsOfTile(tile), sums[m]);
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) prepareRows(const __grid_constant__ ProductParameters p) {
  __shared__ float sums[threads / 32];
  waitForPrevious();
  letNextStart();
  const int row = static_cast<int>(blockIdx.x);
  uint4* const out =
      reinterpret_cast<uint4*>(p.prepared) + static_cast<size_t>(row) * static_cast<size_t>(p.units * unitEights);
  prepareRow<threads>(p, p.normWeight, row, unitsUsedFrom(p, row), sums,
                      [&](int eight, uint4 pairs) { out[eight] = pairs; });
}

extern "C" __global__ void __launch_bounds__(32 * fewRows.warps, fewRows.blocks)
    multiplyOne(const __grid_constant__ ProductParameters p) {
  p.unitBlocksShift == 0 ? multiplyFew<1, true, true>(p) : multiplyFew<1, true, false>(p);
}

extern "C" __global__ void __launch_bounds__(32 * fewRows.warps, fewRows.blocks)
    multiplyFew8(const __grid_constant__ ProductParameters p) {
  p.unitBlocksShift == 0 ? multiplyFew<1, false, true>(p) : multiplyFew<1, false, false>(p);
}

extern "C" __global__ void __launch_bounds__(32 * fewRows.warps)
    multiplyFew16(const __grid_constant__ ProductParameters p) {
  p.unitBlocksShift == 0 ? multiplyFew<2, false, true>(p) : multiplyFew<2, false, false>(p);
}

extern "C" __global__ void __launch_bounds__(32 * fewRows.warps)
    multiplyFew32(const __grid_constant__ ProductParameters p) {
  p.unitBlocksShift == 0 ? multiplyFew<4, false, true>(p) : multiplyFew<4, false, false>(p);
}

extern "C" __global__ void __launch_bounds__(threads, 1)
    multiplyMany256By128(const __grid_constant__ ProductParameters p) {
  multiplyMany<4, 8>(p);
}

extern "C" __global__ void __launch_bounds__(threads, 1)
    multiplyMany128By128(const __grid_constant__ ProductParameters p) {
  multiplyMany<2, 8>(p);
}

extern "C" __global__ void __launch_bounds__(threads, 1)
    multiplyMany128By64(const __grid_constant__ ProductParameters p) {
  multiplyMany<2, 4>(p);
}

}  // namespace espalier::cuda

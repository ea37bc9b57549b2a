// The product for many rows on compute capability 9.0: the warpgroups' tensor cores, with the weights as the left
// operand in registers, unpacked while the products before run, and the batch as the right one in shared memory.
//
// A cluster of two blocks takes the same rows of the batch and tiles side by side; each block fetches half of the rows'
// units for both. In a block one warp fetches, stage after stage of one unit, and every other warp has one tile. The
// clusters stay and take piece after piece, so that what the next needs is fetched while sums are stored.
#include "product_device.cuh"
#include "warpgroup.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "the tensor cores of warpgroups are instructions of sm_90a, not of sm_90"
#endif

namespace espalier::cuda {
namespace {

constexpr int prepareThreads = 256;

#if defined(ESPALIER_EMULATION) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Where a stage's parts and the barriers lie, from an address aligned to 1024 bytes on.
template <int groups, int tokens>
struct Stages {
  using Shape = WideShape<groups, tokens>;
  static constexpr int tiles = Shape::tiles;
  static constexpr uint32_t rowBytes = tokens * unitColumns * 2, codeBytes = tiles * unitBytes;

  uint32_t start, scaleBytes;
  int count;

  __device__ __forceinline__ explicit Stages(const ProductParameters& p) {
    start = (sharedAddress(dynamicShared<uint4>()) + wideAlignment - 1) / wideAlignment * wideAlignment;
    scaleBytes = static_cast<uint32_t>(tiles * tileRows / 2 * 4) << p.unitBlocksShift;
    constexpr int one = Shape::template Blocks<0>::stages, two = Shape::template Blocks<1>::stages,
                  four = Shape::template Blocks<2>::stages;
    count = p.unitBlocksShift == 0 ? one : p.unitBlocksShift == 1 ? two : four;
  }

  // The rows' unit: two halves of 64 columns, each a `Matrix`.
  __device__ __forceinline__ uint32_t rows(int stage) const { return start + static_cast<uint32_t>(stage) * rowBytes; }
  __device__ __forceinline__ uint32_t codes(int stage) const {
    return rows(count) + static_cast<uint32_t>(stage) * codeBytes;
  }
  __device__ __forceinline__ uint32_t scales(int stage) const {
    return codes(count) + static_cast<uint32_t>(stage) * scaleBytes;
  }
  // What was fetched is there.
  __device__ __forceinline__ uint32_t full(int stage) const { return scales(count) + static_cast<uint32_t>(stage) * 8; }
  // Nobody in the cluster reads the stage any more.
  __device__ __forceinline__ uint32_t empty(int stage) const { return full(count + stage); }
};

// Goes around the stages.
struct Turn {
  int stage = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The pieces that a cluster takes, one after another: rows first, so that the clusters of a time share their weights.
struct Piece {
  int index, rowTiles, firstTile, firstToken;
  template <int blockTiles, int tokens>
  __device__ __forceinline__ void place() {
    firstTile = index / rowTiles * 2 * blockTiles;
    firstToken = index % rowTiles * tokens;
  }
};

__device__ __forceinline__ uint32_t loadShared(uint32_t address) {
#ifdef ESPALIER_EMULATION
  uint32_t value;
  memcpy(&value, emulation::machine.shared + address, sizeof(value));
#else
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
#endif
  return value;
}

__device__ __forceinline__ uint4 loadShared16(uint32_t address) {
  uint4 value;
#ifdef ESPALIER_EMULATION
  emulation::requireAligned(emulation::machine.shared + address, 16);
  memcpy(&value, emulation::machine.shared + address, sizeof(value));
#else
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
#endif
  return value;
}

template <int groups, int tokens>
__device__ __forceinline__ void fetchPieces(const ProductParameters& p, const Stages<groups, tokens>& stages) {
  constexpr int tiles = WideShape<groups, tokens>::tiles, rowParts = tokens / preparedTokens;
  constexpr uint32_t partBytes = preparedTokens * unitColumns;  // 64 rows' half of a unit
  const int lane = static_cast<int>(threadIdx.x) % 32, place = static_cast<int>(placeInCluster());
  const int rowTiles = (p.rows + tokens - 1) / tokens, lastPart = (p.rows - 1) / preparedTokens;
  const int pieces = (p.tiles + 2 * tiles - 1) / (2 * tiles) * rowTiles;
  const int clusters = static_cast<int>(gridDim.x) / 2;
  const uint32_t tileScales = static_cast<uint32_t>(tileRows / 2 * 4) << p.unitBlocksShift;
  const uint32_t expected = stages.rowBytes + stages.codeBytes + stages.scaleBytes;

  const auto fetchWeights = [&](int firstTile, int unit, int stage) {
    if (lane == 0) arriveExpecting(stages.full(stage), expected);
    __syncwarp();
    if (lane < tiles) {
      const int tile = min(firstTile + place * tiles + lane, p.tiles - 1);
      const size_t at = static_cast<size_t>(tile) * static_cast<size_t>(p.units) + static_cast<size_t>(unit);
      const uint32_t nth = static_cast<uint32_t>(lane);
      copyBulk(stages.codes(stage) + nth * unitBytes, p.codes + at * unitBytes, unitBytes, stages.full(stage));
      copyBulk(stages.scales(stage) + nth * tileScales, reinterpret_cast<const uint8_t*>(p.scales) + at * tileScales,
               tileScales, stages.full(stage));
    }
  };
  // This block's half of the columns.
  const auto fetchRows = [&](int firstToken, int unit, int stage) {
    if (lane < rowParts) {
      const int part = min(firstToken / preparedTokens + lane, lastPart);
      const size_t at = (static_cast<size_t>(part) * static_cast<size_t>(p.units) + static_cast<size_t>(unit)) * 2 +
                        static_cast<size_t>(place);
      const uint32_t to = (static_cast<uint32_t>(place) * rowParts + static_cast<uint32_t>(lane)) * partBytes;
      copyBulkToBoth(stages.rows(stage) + to, reinterpret_cast<const uint8_t*>(p.prepared) + at * partBytes, partBytes,
                     stages.full(stage));
    }
  };

  Piece piece{static_cast<int>(blockIdx.x) / 2, rowTiles, 0, 0};
  piece.place<tiles, tokens>();
  // Weights are constants: those that are needed whatever the levels come before the previous launch is done.
  const int early = piece.index < pieces && piece.firstTile < p.certainTiles ? min(stages.count, p.certainUnits) : 0;
  for (int unit = 0; unit < early; unit++) fetchWeights(piece.firstTile, unit, unit);
  waitForPrevious();
  letNextStart();
  publishToCopies();
  const Prefixes prefixes(p);
  Turn turn;
  int fetched = early;  // units of the first piece whose weights are under way
  for (; piece.index < pieces; piece.index += clusters) {
    piece.place<tiles, tokens>();
    const int units = piece.firstTile < prefixes.tilesFrom(piece.firstToken) ? prefixes.unitsFrom(piece.firstToken) : 0;
    for (int unit = 0; unit < units; unit++) {
      waitForPhase(stages.empty(turn.stage), turn.parity ^ 1);
      if (unit >= fetched) fetchWeights(piece.firstTile, unit, turn.stage);
      fetchRows(piece.firstToken, unit, turn.stage);
      turn.advance(stages.count);
    }
    fetched = 0;
  }
}

template <int groups, int tokens>
__device__ __forceinline__ void multiplyPieces(const ProductParameters& p, const Stages<groups, tokens>& stages) {
  constexpr int tiles = WideShape<groups, tokens>::tiles, eights = tokens / 8;
  constexpr uint32_t halfBytes = tokens * unitColumns, stepBytes = 32;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4, place = static_cast<int>(placeInCluster());
  const int rowTiles = (p.rows + tokens - 1) / tokens;
  const int pieces = (p.tiles + 2 * tiles - 1) / (2 * tiles) * rowTiles;
  const int clusters = static_cast<int>(gridDim.x) / 2;
  const uint32_t ownCodes = static_cast<uint32_t>(warp * unitBytes + lane * 16);
  const uint32_t ownScales =
      static_cast<uint32_t>(((warp << p.unitBlocksShift) + (t >> (2 - p.unitBlocksShift))) * 8 + g) * 4;
  waitForPrevious();
  letNextStart();
  const Prefixes prefixes(p);
  Turn turn;

  uint4 codes[2];
  uint32_t scales = 0;
  const auto take = [&] {
    waitForPhase(stages.full(turn.stage), turn.parity);
    codes[0] = loadShared16(stages.codes(turn.stage) + ownCodes);
    codes[1] = loadShared16(stages.codes(turn.stage) + ownCodes + unitBytes / 2);
    scales = loadShared(stages.scales(turn.stage) + ownScales);
  };
  const auto release = [&](int stage) {
    if (lane < 2) arriveAt(stages.empty(stage), static_cast<unsigned>(lane));
  };

  Piece piece{static_cast<int>(blockIdx.x) / 2, rowTiles, 0, 0};
  for (; piece.index < pieces; piece.index += clusters) {
    piece.place<tiles, tokens>();
    const int units = piece.firstTile < prefixes.tilesFrom(piece.firstToken) ? prefixes.unitsFrom(piece.firstToken) : 0;
    float sums[eights][4] = {};
    if (units > 0) {
      uint32_t weights[2][2][4];  // of this word of codes and of the one before: two steps of 16 columns each
      take();
      for (int unit = 0; unit < units; unit++) {
        const int stage = turn.stage;
        const Matrix rows(stages.rows(stage));
        const uint4 unitCodes[2] = {codes[0], codes[1]};
        const __half2 both = halvesOf(scales);
        const __half2 upperScale = __half2half2(__low2half(both)), lowerScale = __half2half2(__high2half(both));
        turn.advance(stages.count);
#pragma unroll
        for (int word = 0; word < 4; word++) {
          uint32_t upper[4], lower[4];
          unpack(wordOf(unitCodes[0], word), upperScale, upper);
          unpack(wordOf(unitCodes[1], word), lowerScale, lower);
          uint32_t(&now)[2][4] = weights[word % 2];
#pragma unroll
          for (int i = 0; i < 2; i++) {
            now[i][0] = upper[2 * i], now[i][1] = lower[2 * i];
            now[i][2] = upper[2 * i + 1], now[i][3] = lower[2 * i + 1];
            holdRegisters(now[i]);
          }
          orderRegisters();
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const uint32_t at =
                static_cast<uint32_t>(word / 2) * halfBytes + static_cast<uint32_t>(word % 2 * 2 + i) * stepBytes;
            multiplyWarpgroup(sums, now[i], rows.at(at));
          }
          commitProducts();
          if (word == 3 && unit + 1 < units) take();
          waitForProducts<1>();
#pragma unroll
          for (int i = 0; i < 2; i++) holdRegisters(weights[(word + 1) % 2][i]);
          // The products of the unit before are done.
          if (word == 0 && unit > 0) release(stage == 0 ? stages.count - 1 : stage - 1);
        }
      }
      waitForProducts<0>();
      holdRegisters(sums);
      release(turn.stage == 0 ? stages.count - 1 : turn.stage - 1);
    }
    const int tile = piece.firstTile + place * tiles + warp;
    if (tile < p.tiles) storeTile(p, tile, piece.firstToken, prefixes.rowsOfTile(tile), sums);
  }
}

template <int groups, int tokens>
__device__ __forceinline__ void multiplyWide(const ProductParameters& p) {
  constexpr int tiles = WideShape<groups, tokens>::tiles;
  const Stages<groups, tokens> stages(p);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages.count; stage++) {
      initBarrier(stages.full(stage), 1);
      initBarrier(stages.empty(stage), 2 * tiles);
    }
    publishBarriers();
  }
  syncCluster();
  if (static_cast<int>(threadIdx.x) / 32 == tiles) {
    fetchPieces(p, stages);
  } else {
    multiplyPieces(p, stages);
  }
  // The other block still signals barriers of this one.
  __syncwarp();
  syncCluster();
}

#else

template <int groups, int tokens>
__device__ __forceinline__ void multiplyWide(const ProductParameters&) {
  __trap();
}

#endif

}  // namespace

// [64 rows][units][2 halves][64 rows][64 columns] each a `Matrix`, the columns as the products take them: step
// 2w + i of a unit has in places 2t and 2t + 1 the pair 2i of the lane t's eight w, in places 2t + 8 and 2t + 9 the
// next.
extern "C" __global__ void __launch_bounds__(prepareThreads) prepareTiles(const __grid_constant__ ProductParameters p) {
  __shared__ float sums[prepareThreads / 32];
  waitForPrevious();
  letNextStart();
  const int row = static_cast<int>(blockIdx.x), place = row % preparedTokens;
  auto* const out = reinterpret_cast<uint32_t*>(p.prepared);
  const size_t firstUnit = static_cast<size_t>(row / preparedTokens) * static_cast<size_t>(p.units);
  prepareRow<prepareThreads>(p, p.normWeight, row, unitsUsedFrom(p, row), sums, [&](int eight, uint4 pairs) {
    const int unit = eight / unitEights, t = eight % unitEights / 4, word = eight % 4;
    const size_t half = (firstUnit + static_cast<size_t>(unit)) * 2 + static_cast<size_t>(word / 2);
    uint32_t* const from = out + (half * preparedTokens + static_cast<size_t>(place)) * 32;  // of 128 bytes
#pragma unroll
    for (int i = 0; i < 4; i++) from[((word % 2 * 4 + i) ^ (place % 8)) * 4 + t] = wordOf(pairs, i);
  });
}

#define WIDE(groups, tokens)                                                                         \
  extern "C" __global__ void __launch_bounds__(WideShape<groups, tokens>::threads, 1)                \
      ESPALIER_PAIRS multiplyWide##groups##By##tokens(const __grid_constant__ ProductParameters p) { \
    multiplyWide<groups, tokens>(p);                                                                 \
  }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define ESPALIER_PAIRS
#else
#define ESPALIER_PAIRS __cluster_dims__(2, 1, 1)
#endif
WIDE(1, 64)
WIDE(2, 64)
WIDE(1, 128)
WIDE(2, 128)
WIDE(3, 128)

}  // namespace espalier::cuda

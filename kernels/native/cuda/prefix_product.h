// A linear layer of which every row of a batch uses a prefix, on the device: what the host packs and the kernels read.
//
// The columns of a weight row are packed in units of 128, the rows in tiles of 16, padded with zeros. Both axes are cut
// into segments, one per stored chunk on the axis that is cut, one on the other; a segment begins with a fresh unit or
// tile. Since levels do not grow from chunk to chunk, what a row of the batch uses is a prefix of the units or of the
// tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../prefix_product.h"

namespace espalier::cuda {

constexpr int unitColumns = 128;
constexpr int tileRows = 16;
constexpr int unitBytes = tileRows * unitColumns / 2;
constexpr int maxSegments = 20;
// How few rows are multiplied: warps of a block, parts of units that each has on the way, blocks of a multiprocessor.
// The best of those tried on an H100 with the layers of an 8B model.
struct FewRows {
  int warps, depth, blocks;
};
constexpr FewRows fewRows{16, 2, 1};
// Rows of the batch that a product takes at once while it reads the weights; more go through tiles in shared memory.
constexpr int mostFewRows = 32;

// A tile's place `slot` holds stored row 16 i + slot of its segment; where outputs are gated, gate 8 i + slot, and 8
// places on what it gates. A lane 4 g + t of a warp has of every unit the columns 32 t to 32 t + 31 of the rows in
// places g and g + 8.
struct ProductParameters {
  const uint8_t* codes;     // [tiles][units][2: places g, g + 8][32 lanes][16 bytes, two codes each]
  const uint32_t* scales;   // [tiles][units][blocks of a unit][8]: halves of the places g (low) and g + 8
  const int32_t* outputOf;  // [tiles][16]: the output that a row computes; -1 for none
  const float* bias;        // [tiles][16]; null for none
  const int32_t*
      inputOf;     // [units][128 / inputStep]: the input of the first of so many columns, -1 for none; null: the same
  const float* x;  // [rows][inputs]
  const int64_t* rowsUpTo;  // [levels]; null: all rows use all segments
  const float* normWeight;  // [inputs]; null for none
  const float* residual;    // [rows][outputs]; null for none
  float* y;                 // [rows][outputs]
  uint16_t* prepared;       // the rows as halves, as the kernel takes them; null: the product prepares its row
  float epsilon;
  int rows, inputs, outputs;
  int cut, activation;  // `Cut` and `Activation` as numbers
  int inputStep;        // 8 or 1
  int unitBlocksShift;  // log2 of the blocks of a unit
  int units, tiles;
  int certainUnits, certainTiles;  // those that the narrowest level keeps
  int segments;
  int levels[maxSegments], starts[maxSegments];  // of the segments: the narrowest level, the first tile or unit
};

// A layer as the device holds it, but for addresses and what a run brings.
struct ProductPlan {
  ProductParameters parameters;
  std::vector<int32_t> outputOf, inputOf;  // empty where there is none
  std::vector<float> bias;
  size_t codeBytes, scaleBytes;

  // Bytes of `packProduct`'s result.
  size_t packedBytes() const;
};

// Null and a plan, or why the kernels cannot take the layer. Reads the chunks' biases.
const char* planProduct(const ProductShape&, const StoredChunk* chunks, size_t count, ProductPlan* out);

// All that stays on the device, in one piece.
void packProduct(const ProductShape&, const StoredChunk* chunks, size_t count, const ProductPlan&, uint8_t* out);

// Parameters that find their parts in a packed layer at this address of the device.
ProductParameters placeProduct(const ProductPlan&, const void* packed);

// What of a device decides how a product runs there.
struct ProductDevice {
  int multiprocessors;
  bool wide;  // it has the tensor cores of warpgroups: compute capability 9.0
};

// Kernels, by their place among `productKernels`. `prepareRows` leaves [rows][units][128] halves, of every eight the
// pairs (i, i + 4); `prepareTiles` what the wide ones take.
enum class ProductKernel {
  prepareRows,
  multiplyOne,
  multiplyFew8,
  multiplyFew16,
  multiplyFew32,
  multiplyMany256By128,
  multiplyMany128By128,
  multiplyMany128By64,
  prepareTiles,  // from here on for wide devices only
  multiplyWide1By64,
  multiplyWide2By64,
  multiplyWide1By128,
  multiplyWide2By128,
  multiplyWide3By128,
};
constexpr const char* productKernels[] = {
    "prepareRows",          "multiplyOne",          "multiplyFew8",        "multiplyFew16",     "multiplyFew32",
    "multiplyMany256By128", "multiplyMany128By128", "multiplyMany128By64", "prepareTiles",      "multiplyWide1By64",
    "multiplyWide2By64",    "multiplyWide1By128",   "multiplyWide2By128",  "multiplyWide3By128"};

// The most dynamic shared memory that a kernel is launched with. A block of a Hopper has 227 KiB with what its kernel
// declares.
constexpr size_t mostSharedBytes(ProductKernel kernel) {
  return (kernel < ProductKernel::multiplyMany256By128 ? 96
          : kernel < ProductKernel::prepareTiles       ? 144
                                                       : 219) *
         size_t{1024};
}

// The many kernels are called rows of weights By rows of the batch, of a block: its 8 warps are 4 times 2.
template <int warpTiles, int warpEights>
struct ManyShape {
  static constexpr int tiles = 4 * warpTiles, tokens = 2 * 8 * warpEights, stages = 3;
  static constexpr size_t sharedBytes = size_t{stages} * (tokens * unitColumns * 2 + tiles * unitBytes);
  static_assert(sharedBytes <= mostSharedBytes(ProductKernel::multiplyMany256By128));
};

constexpr int preparedTokens = 64;  // rows of the batch that `prepareTiles` puts together
constexpr uint32_t wideAlignment = 1024;

// The wide kernels are called groups By tokens: a block has so many warpgroups, whose every warp has a tile, and so
// many rows of the batch; one more warp fetches.
template <int groups, int tokens>
struct WideShape {
  static constexpr int tiles = 4 * groups;
  static constexpr unsigned threads = 32 * (tiles + 1);
  // Of a stage: a unit of the rows and of the tiles, two barriers.
  template <int unitBlocksShift>
  struct Blocks {
    static constexpr size_t stageBytes =
        tokens * unitColumns * 2 + tiles * unitBytes + (size_t{tiles * tileRows / 2 * 4} << unitBlocksShift) + 16;
    static constexpr size_t fitting = (mostSharedBytes(ProductKernel::multiplyWide1By64) - wideAlignment) / stageBytes;
    static constexpr size_t stages = fitting < 8 ? fitting : 8;
    static constexpr size_t sharedBytes = wideAlignment + stages * stageBytes;
  };
};

struct ProductLaunch {
  ProductKernel kernel;
  unsigned gridX, gridY, threads;
  size_t sharedBytes;
};

// Bytes of `prepared` for so many rows; 0 if the product prepares them itself.
size_t preparedBytes(const ProductParameters&, int rows, const ProductDevice&);

// The kernels that a run over so many rows takes, in order: at most two.
size_t productLaunches(const ProductParameters&, int rows, const ProductDevice&, ProductLaunch out[2]);

}  // namespace espalier::cuda

// A linear layer of which every row of a batch uses a prefix, on the device: what the host plans and the kernels read.
//
// The columns of a stored row are read in units of 128, the rows in tiles of 16. Both axes are cut into segments, one
// per stored chunk on the axis that is cut, one on the other; a segment begins with a fresh unit or tile. Since levels
// do not grow from chunk to chunk, what a row of the batch uses is a prefix of the units and of the tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../prefix_product.h"

namespace espalier::cuda {

constexpr int unitColumns = 128;
constexpr int tileRows = 16;
constexpr int maxSegments = 20;
// Rows of the batch that a product reads straight from global memory; more go through tiles in shared memory.
constexpr int mostFewRows = 32;

struct Segment {
  const uint8_t* codes;  // [rows][blocks][block size / 2]
  const uint16_t* scales;
  const float* bias;  // [rows]; null for none
  int level;          // the narrowest that keeps it
  int rows, blocks;   // as stored
  int columns;        // used, of the blocks' columns
  int firstTile, firstUnit;
  int widths[maxAxes], starts[maxAxes];  // channels of every group of an axis, and the first one's place in it
};

struct ProductParameters {
  const float* x;           // [rows][inputs]
  const int64_t* rowsUpTo;  // [levels]; null: all rows use all segments
  const float* normWeight;  // [inputs]; null for none
  const float* residual;    // [rows][outputs]; null for none
  float* y;                 // [rows][outputs]
  uint16_t*
      prepared;  // [rows][units][128] halves, of every eight the pairs (i, i + 4); null: the product prepares its row
  float epsilon;
  int rows, inputs, outputs;
  int cut, activation;             // `Cut` and `Activation` as numbers
  int blockShift;                  // log2 of the block size
  int segments;                    // of the axis that is cut
  int units, tiles;                // of all segments
  int certainUnits, certainTiles;  // those that the narrowest level keeps
  int axes, groups[maxAxes], widest[maxAxes], axisStarts[maxAxes];
  Segment segment[maxSegments];
};
static_assert(sizeof(ProductParameters) <= 4096, "must fit a kernel's parameters");

// What all runs of a layer share. Null and a reason if the kernels cannot take it.
const char* planProduct(const ProductShape&, const StoredChunk* chunks, size_t count, ProductParameters* out);

// Kernels, by their place among `productKernels`.
enum class ProductKernel { prepareRows, multiplyOne, multiplyFew8, multiplyFew16, multiplyFew32, multiplyMany };
constexpr const char* productKernels[] = {"prepareRows",   "multiplyOne",   "multiplyFew8",
                                          "multiplyFew16", "multiplyFew32", "multiplyMany"};
constexpr size_t mostSharedBytes = 96 * 1024;

struct ProductLaunch {
  ProductKernel kernel;
  unsigned gridX, gridY, threads;
  size_t sharedBytes;
};

// Bytes of `prepared` for so many rows; 0 if the product prepares them itself.
size_t preparedBytes(const ProductParameters&, int rows);

// The kernels that a run over so many rows takes, in order: at most two.
size_t productLaunches(const ProductParameters&, int rows, int multiprocessors, ProductLaunch out[2]);

}  // namespace espalier::cuda

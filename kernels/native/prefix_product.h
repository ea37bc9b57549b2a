// A linear layer of which every row of a batch uses a prefix: x W^T, W int4 with float16 scales per block of columns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "parallel.h"
#include "routines.h"

namespace espalier {

// Axes that one layer can have side by side, each cut in its own way.
constexpr size_t maxAxes = 4;

// Channels that the same levels keep, as they are stored: codes [rows][blocks][blockSize / 2], scales [rows][blocks].
struct StoredChunk {
  const uint8_t* codes;
  const uint16_t* scales;
  const float* bias;       // [rows]; null if there is none
  size_t widths[maxAxes];  // channels of every group of an axis; may be 0 where another axis has some
  size_t level;            // the narrowest level that keeps it; not increasing from chunk to chunk
};

enum class Cut {
  outputs,  // every chunk holds rows: axis by axis the channels of all groups, group by group
  gated,    // the same with one axis of two groups, gate and up; the result is silu(gate) * up
  inputs,   // every chunk holds columns: the channels of all groups of one axis
};

enum class Activation { none, squaredRelu };  // of cut outputs

struct ProductShape {
  Cut cut;
  size_t axes;
  size_t groups[maxAxes];
  size_t uncut;  // size of the axis that is not cut: columns, or rows where the inputs are cut
  size_t blockSize;
  Activation activation;

  // Rows of cut outputs, or columns of cut inputs, that a chunk holds.
  size_t channelsOf(const StoredChunk& chunk) const {
    size_t channels = 0;
    for (size_t axis = 0; axis < axes; axis++) channels += groups[axis] * chunk.widths[axis];
    return channels;
  }
};

// What one run works on.
struct ProductRun {
  const float* x;           // [rows][inputs]; the inputs of a cut axis are [groups][widest]
  size_t rows;              // widest level first
  const int64_t* rowsUpTo;  // [levels]: rows whose level is at most this one; null: all rows take all chunks
  const float* normWeight;  // [inputs]: the root mean square norm that comes first; null for none
  float epsilon;
  const float* residual;  // [rows][outputs], added; null for none
  float* y;  // [rows][outputs], cut ones axis by axis [groups][widest]; zero where a row's level keeps nothing
};

class PrefixProduct {
 public:
  // Packs the chunks into memory of its own. Null if there is not enough.
  static PrefixProduct* create(const Routines&, const ProductShape&, const StoredChunk* chunks, size_t count);
  ~PrefixProduct();
  PrefixProduct(const PrefixProduct&) = delete;
  PrefixProduct& operator=(const PrefixProduct&) = delete;

  size_t inputs() const { return inputs_; }
  size_t outputs() const { return outputs_; }
  size_t levels() const { return levels_; }

  // Bytes of work memory, aligned to 64, that a run over so many rows needs.
  size_t workBytes(size_t rows) const;

  // Loops of a run.
  static constexpr size_t loops = 2;

  // Several runs may overlap, each with work memory of its own.
  void run(const ProductRun&, void* work, const Parallel&) const;

 private:
  struct Chunk {
    size_t start, width, level;  // start and width of the first axis
    size_t firstBlock, blocks;   // inputs cut: its blocks of every packed row
    size_t firstByte, bytes;     // of a tile
    size_t endTile;              // outputs cut: the tile behind its last row
  };
  struct Activations;
  // What is to be known of a tile before its weights: few bytes, since all are read once per run, as the weights are.
  struct Tile {
    uint32_t firstOutput;
    uint8_t firstChunk, lastChunk;  // of its rows, outputs cut
    bool inOrder;                   // its rows' outputs lie side by side
  };

  PrefixProduct(const Routines& routines, const ProductShape& shape) : routines_(routines), shape_(shape) {}
  bool pack(const StoredChunk* chunks);
  void packOutputs(const StoredChunk* chunks);
  void packInputs(const StoredChunk* chunks);
  void packRow(size_t packedRow, const uint8_t* codes, const uint16_t* scales, size_t chunk);
  Activations arrange(void* work, size_t rows) const;
  void quantize(const ProductRun&, const Activations&, size_t row) const;
  void multiply(const ProductRun&, const Activations&, size_t task) const;
  void multiplyOutputs(const ProductRun&, const Activations&, size_t task, size_t firstRow, size_t rows) const;
  void multiplyInputs(const ProductRun&, const Activations&, size_t task, size_t firstRow, size_t rows) const;
  void multiplyBlocks(const ProductRun&, const Activations&, size_t at, size_t tiles, size_t chunk, size_t firstRow,
                      size_t rows, size_t end, size_t skipped, float* sums) const;
  void addBias(size_t tile, size_t rows, float* sums) const;
  void clearTiles(const ProductRun&, size_t firstTile) const;
  void storeTile(const ProductRun&, size_t tile, size_t firstRow, size_t rows, const float* sums) const;
  bool atHand(const ProductRun&) const;
  const Grouping& groupingOf(const ProductRun&) const;
  size_t extent(const ProductRun& run, const Chunk& chunk) const;
  size_t activeTiles(const ProductRun& run) const;
  size_t rowsOf(size_t tile) const;
  size_t tilesOf(size_t task) const;
  size_t placeOf(size_t tile, size_t chunk) const;

  const Routines& routines_;
  const ProductShape shape_;
  Chunk* chunks_ = nullptr;
  size_t chunkCount_ = 0;
  size_t inputs_ = 0, outputs_ = 0, levels_ = 0;
  size_t widest_ = 0;  // channels of a group of the first axis
  size_t blocks_ = 0;  // of a packed row
  size_t packedRows_ = 0, tiles_ = 0, tilesPerTask_ = 0;
  size_t tileBytes_ = 0;
  // In the order in which they are read: [tasks][chunks][tiles of the task][blocks of the chunk], the chunks only where
  // inputs are cut. So a task reads one stretch, and what a level leaves out lies behind it.
  uint8_t* weights_ = nullptr;
  float* bias_ = nullptr;         // [packed rows]
  Tile* tilesAt_ = nullptr;       // [tiles]
  uint32_t* outputOf_ = nullptr;  // [packed rows]: the output that a packed row computes
  uint32_t* chunkOf_ = nullptr;   // [packed rows], outputs cut
};

}  // namespace espalier

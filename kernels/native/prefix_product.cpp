#include "prefix_product.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "memory.h"
#include "rounding.h"
#include "tile_layout.h"

namespace espalier {
namespace {

// Weights of one task at most: large enough to be worth the handover, and they stay in the second-level cache while the
// rows of a prefill pass by. Where inputs are cut, a narrow row leaves out something of every task, and as much again
// passes before the processor's own prefetch is under way: there 128 KiB take 3 % longer at the largest rate (Zen 5).
constexpr size_t taskBytes = size_t{1} << 17, cutTaskBytes = size_t{1} << 18;

// Tasks of a matrix at least, if it has so many tiles: threads that share it are to end together.
constexpr size_t leastTasks = 12;

// Elements below which quantizing is not worth another thread.
constexpr size_t serialElements = size_t{1} << 15;

}  // namespace

// Quantized rows, in work memory: groups of rows, the last one of fewer, and in each the layouts of `TileProduct`.
struct PrefixProduct::Activations {
  int8_t* codes;     // [groups], each as the grouping lays it out
  float* scales;     // [groups][blocks][rows of the group]
  int32_t* offsets;  // as the scales
  float* gathered;   // [rows][columns]: normalized, or put in the order of the stored columns
};

PrefixProduct* PrefixProduct::create(const Routines& routines, const ProductShape& shape, const StoredChunk* chunks,
                                     size_t count) {
  auto* product = new (std::nothrow) PrefixProduct(routines, shape);
  if (!product) return nullptr;
  product->chunkCount_ = count;
  product->chunks_ = static_cast<Chunk*>(std::calloc(count, sizeof(Chunk)));
  if (!product->chunks_ || !product->pack(chunks)) {
    delete product;
    return nullptr;
  }
  return product;
}

PrefixProduct::~PrefixProduct() {
  freeWeights(weights_);
  std::free(chunks_);
  std::free(bias_);
  std::free(outputOf_);
  std::free(chunkOf_);
  std::free(tilesAt_);
}

bool PrefixProduct::pack(const StoredChunk* stored) {
  const size_t blockSize = shape_.blockSize;
  const bool cutsInputs = shape_.cut == Cut::inputs;
  bool biased = false;
  size_t start = 0, blocks = 0, bytes = 0, channels = 0;
  for (size_t c = 0; c < chunkCount_; c++) {
    const size_t columns = cutsInputs ? shape_.channelsOf(stored[c]) : shape_.uncut;
    const size_t chunkBlocks = ceilDivide(columns, blockSize);
    const size_t chunkBytes = tileBytes(chunkBlocks, blockSize);
    chunks_[c] = {start,       stored[c].widths[0],    stored[c].level, cutsInputs ? blocks : 0,
                  chunkBlocks, cutsInputs ? bytes : 0, chunkBytes,      0};
    start += stored[c].widths[0];
    channels += shape_.channelsOf(stored[c]);
    blocks += chunkBlocks;
    bytes += chunkBytes;
    biased = biased || stored[c].bias;
    if (stored[c].level + 1 > levels_) levels_ = stored[c].level + 1;
  }
  widest_ = start;
  blocks_ = cutsInputs ? blocks : chunks_[0].blocks;
  tileBytes_ = cutsInputs ? bytes : chunks_[0].bytes;
  inputs_ = cutsInputs ? channels : shape_.uncut;
  outputs_ = cutsInputs ? shape_.uncut : shape_.cut == Cut::gated ? widest_ : channels;
  packedRows_ = cutsInputs ? shape_.uncut : channels;
  // The gate rows and the up rows of sixteen channels are neighbouring tiles.
  tiles_ = shape_.cut == Cut::gated ? 2 * ceilDivide(widest_, tileRows) : ceilDivide(packedRows_, tileRows);

  const size_t wanted = (cutsInputs ? cutTaskBytes : taskBytes) / tileBytes_;
  tilesPerTask_ = least(wanted > 0 ? wanted : 1, ceilDivide(tiles_, leastTasks));
  // A gate and its up, or two that are computed at once.
  if (tilesPerTask_ > 1 || shape_.cut == Cut::gated) tilesPerTask_ = roundUp(tilesPerTask_, pairTiles);
  if (cutsInputs) tilesPerTask_ = least(tilesPerTask_, maxTiles);

  const size_t padded = tiles_ * tileRows;
  weights_ = static_cast<uint8_t*>(allocateWeights(tiles_ * tileBytes_));
  outputOf_ = static_cast<uint32_t*>(std::calloc(padded, sizeof(uint32_t)));
  chunkOf_ = static_cast<uint32_t*>(std::calloc(padded, sizeof(uint32_t)));
  tilesAt_ = static_cast<Tile*>(std::calloc(tiles_, sizeof(Tile)));
  if (biased) bias_ = static_cast<float*>(std::calloc(padded, sizeof(float)));
  if (!weights_ || !outputOf_ || !chunkOf_ || !tilesAt_ || (biased && !bias_)) return false;

  if (cutsInputs) {
    packInputs(stored);
  } else {
    packOutputs(stored);
  }
  for (size_t tile = 0; tile < tiles_; tile++) {
    const uint32_t *outputs = outputOf_ + tile * tileRows, *chunks = chunkOf_ + tile * tileRows;
    const size_t count = rowsOf(tile);
    size_t next = 1;
    while (next < count && outputs[next] == outputs[0] + next) next++;
    tilesAt_[tile] = {outputs[0], static_cast<uint8_t>(chunks[0]), static_cast<uint8_t>(chunks[count - 1]),
                      next == count};
  }
  return true;
}

void PrefixProduct::packInputs(const StoredChunk* stored) {
  for (size_t row = 0; row < packedRows_; row++) outputOf_[row] = static_cast<uint32_t>(row);
  for (size_t c = 0; c < chunkCount_; c++) {
    const size_t blocks = chunks_[c].blocks;
    for (size_t row = 0; row < packedRows_; row++) {
      packRow(row, stored[c].codes + row * blocks * shape_.blockSize / 2, stored[c].scales + row * blocks, c);
      if (stored[c].bias) bias_[row] += stored[c].bias[row];
    }
  }
}

// Packs rows in the order in which they are stored, so that what a level does not keep lies at the end.
void PrefixProduct::packOutputs(const StoredChunk* stored) {
  size_t widest[maxAxes] = {}, starts[maxAxes] = {};
  for (size_t c = 0; c < chunkCount_; c++) {
    for (size_t axis = 0; axis < shape_.axes; axis++) widest[axis] += stored[c].widths[axis];
  }
  size_t packedRow = 0;
  for (size_t c = 0; c < chunkCount_; c++) {
    size_t row = 0, firstOutput = 0;
    for (size_t axis = 0; axis < shape_.axes; axis++) {
      const size_t width = stored[c].widths[axis];
      for (size_t i = 0; i < shape_.groups[axis] * width; i++, row++, packedRow++) {
        const size_t group = i / width;
        const size_t channel = starts[axis] + i % width;
        size_t place = packedRow;
        if (shape_.cut == Cut::gated) {
          place = (2 * (channel / tileRows) + group) * tileRows + channel % tileRows;
          outputOf_[place] = static_cast<uint32_t>(channel);
        } else {
          outputOf_[place] = static_cast<uint32_t>(firstOutput + group * widest[axis] + channel);
        }
        chunkOf_[place] = static_cast<uint32_t>(c);
        packRow(place, stored[c].codes + row * blocks_ * shape_.blockSize / 2, stored[c].scales + row * blocks_, c);
        if (stored[c].bias) bias_[place] = stored[c].bias[row];
        if (chunks_[c].endTile < place / tileRows + 1) chunks_[c].endTile = place / tileRows + 1;
      }
      starts[axis] += width;
      firstOutput += shape_.groups[axis] * widest[axis];
    }
  }
}

// Rows of a tile that are no padding.
size_t PrefixProduct::rowsOf(size_t tile) const {
  return shape_.cut == Cut::gated ? least(tileRows, widest_ - tile / 2 * tileRows)
                                  : least(tileRows, packedRows_ - tile * tileRows);
}

size_t PrefixProduct::tilesOf(size_t task) const { return least(tilesPerTask_, tiles_ - task * tilesPerTask_); }

// Where the weights lie that a tile has of a chunk; of all chunks, where outputs are cut.
size_t PrefixProduct::placeOf(size_t tile, size_t chunk) const {
  const size_t inTask = tile % tilesPerTask_, first = tile - inTask;
  return first * tileBytes_ + tilesOf(tile / tilesPerTask_) * chunks_[chunk].firstByte + inTask * chunks_[chunk].bytes;
}

// Moves the words of one stored row to its place in a tile. Padding rows keep codes and scales of zero: nothing.
void PrefixProduct::packRow(size_t packedRow, const uint8_t* codes, const uint16_t* scales, size_t chunk) {
  const size_t blockSize = shape_.blockSize, words = blockSize / 8, inTile = packedRow % tileRows;
  uint8_t* tile = weights_ + placeOf(packedRow / tileRows, chunk);
  for (size_t b = 0; b < chunks_[chunk].blocks; b++) {
    std::memcpy(tile + scalesAt(b, blockSize) + 2 * inTile, scales + b, 2);
    uint8_t* out = tile + codesAt(b, blockSize) + 4 * inTile;
    for (size_t word = 0; word < words; word++, codes += 4) std::memcpy(out + word * 4 * tileRows, codes, 4);
  }
}

size_t PrefixProduct::workBytes(size_t rows) const {
  const size_t columns = blocks_ * shape_.blockSize;
  return roundUp(rows * columns, alignment) + 2 * roundUp(rows * blocks_ * 4, alignment) + rows * columns * 4;
}

PrefixProduct::Activations PrefixProduct::arrange(void* work, size_t rows) const {
  Activations activations{};
  uint8_t* at = static_cast<uint8_t*>(work);
  activations.codes = reinterpret_cast<int8_t*>(at);
  at += roundUp(rows * blocks_ * shape_.blockSize, alignment);
  activations.scales = reinterpret_cast<float*>(at);
  at += roundUp(rows * blocks_ * 4, alignment);
  activations.offsets = reinterpret_cast<int32_t*>(at);
  at += roundUp(rows * blocks_ * 4, alignment);
  activations.gathered = reinterpret_cast<float*>(at);
  return activations;
}

// Few rows wait for memory, which likes to be read in order; with many, weights are at hand and two tiles are faster.
bool PrefixProduct::atHand(const ProductRun& run) const { return run.rows > fewRows; }

const Grouping& PrefixProduct::groupingOf(const ProductRun& run) const {
  return atHand(run) ? routines_.many : routines_.few;
}

// Rows that take part in a chunk.
size_t PrefixProduct::extent(const ProductRun& run, const Chunk& chunk) const {
  if (!run.rowsUpTo) return run.rows;
  const int64_t rows = run.rowsUpTo[chunk.level];
  return rows < 0 ? 0 : least(static_cast<size_t>(rows), run.rows);
}

// Tiles with an output that some row computes. What no row keeps lies at the end.
size_t PrefixProduct::activeTiles(const ProductRun& run) const {
  if (shape_.cut == Cut::inputs) return tiles_;
  size_t active = chunkCount_;
  while (active > 0 && extent(run, chunks_[active - 1]) == 0) active--;
  if (active == chunkCount_) return tiles_;
  return active == 0 ? 0 : chunks_[active - 1].endTile;
}

void PrefixProduct::quantize(const ProductRun& run, const Activations& to, size_t row) const {
  const size_t blockSize = shape_.blockSize;
  const float* x = run.x + row * inputs_;
  float* gathered = to.gathered + row * blocks_ * blockSize;
  const Grouping& grouping = groupingOf(run);
  const size_t first = row / grouping.rows * grouping.rows;
  const size_t groupRows = least(grouping.rows, run.rows - first);
  const bool inEights = grouping.layout == Layout::eights;
  const size_t rowsApart = inEights ? 8 : blockSize, eightsApart = inEights ? 8 * groupRows : 8;
  int8_t* codes = to.codes + first * blocks_ * blockSize + rowsApart * (row - first);
  float* scales = to.scales + first * blocks_ + (row - first);
  int32_t* offsets = to.offsets + first * blocks_ + (row - first);
  if (shape_.cut != Cut::inputs) {
    if (run.normWeight) {
      routines_.normalizeRow(x, run.normWeight, inputs_, run.epsilon, gathered);
      x = gathered;
    }
    return routines_.quantizeRow(x, inputs_, blockSize, groupRows, eightsApart, codes, scales, offsets);
  }
  for (size_t c = 0; c < chunkCount_; c++) {
    const Chunk& chunk = chunks_[c];
    if (extent(run, chunk) <= row) break;  // later chunks have fewer rows still
    const float* values = x + chunk.start;
    if (shape_.groups[0] > 1) {
      for (size_t g = 0; g < shape_.groups[0]; g++) {
        // A loop, because a chunk has few channels of a head.
        for (size_t i = 0; i < chunk.width; i++) gathered[g * chunk.width + i] = x[g * widest_ + chunk.start + i];
      }
      values = gathered;
    }
    const size_t at = chunk.firstBlock * groupRows;
    routines_.quantizeRow(values, shape_.groups[0] * chunk.width, blockSize, groupRows, eightsApart,
                          codes + at * blockSize, scales + at, offsets + at);
  }
}

void PrefixProduct::run(const ProductRun& run, void* work, const Parallel& parallel) const {
  if (run.rows == 0) return;
  const Activations activations = arrange(work, run.rows);
  if (run.rows * inputs_ < serialElements) {
    parallel.once([&] {
      for (size_t row = 0; row < run.rows; row++) quantize(run, activations, row);
    });
  } else {
    parallel.forEach(run.rows, [&](size_t row) { quantize(run, activations, row); });
  }
  // Tiles that no row keeps only need zeros. With few rows they are no tasks of a product, which threads would share
  // unevenly, but together the last task.
  const size_t shared = atHand(run) ? tiles_ : activeTiles(run);
  const size_t tasks = ceilDivide(shared, tilesPerTask_);
  const bool clears = tasks * tilesPerTask_ < tiles_;
  parallel.forEach(tasks + clears, [&](size_t task) {
    if (task < tasks) return multiply(run, activations, task);
    clearTiles(run, tasks * tilesPerTask_);
  });
}

void PrefixProduct::multiply(const ProductRun& run, const Activations& activations, size_t task) const {
  const size_t most = groupingOf(run).rows;
  for (size_t row = 0; row < run.rows; row += most) {
    const size_t rows = least(most, run.rows - row);
    if (shape_.cut == Cut::inputs) {
      multiplyInputs(run, activations, task, row, rows);
    } else {
      multiplyOutputs(run, activations, task, row, rows);
    }
  }
}

// Outputs cut: one tile after another; two at a time where they are a gate and its up, or weights are at hand. More at
// once cost few rows 2 to 4 %: while all are stored, memory waits.
void PrefixProduct::multiplyOutputs(const ProductRun& run, const Activations& activations, size_t task, size_t firstRow,
                                    size_t rows) const {
  const size_t firstTile = task * tilesPerTask_, endTile = firstTile + tilesOf(task);
  const bool gated = shape_.cut == Cut::gated;
  const size_t atOnce = atHand(run) ? pairTiles : 1, step = gated ? 2 : atOnce;
  const size_t ofTile = rows * tileRows;
  alignas(64) float sums[pairTiles * maxRows * tileRows];
  for (size_t tile = firstTile; tile < endTile; tile += step) {
    const size_t tiles = least(step, endTile - tile);
    std::memset(sums, 0, tiles * ofTile * sizeof(float));
    for (size_t i = 0; i < tiles; i += atOnce) {
      // The first tile's first chunk has the most rows; what later ones compute beyond theirs is not stored.
      const size_t chunk = tilesAt_[tile + i].firstChunk;
      multiplyBlocks(run, activations, (tile + i) * tileBytes_, least(atOnce, tiles), chunk, firstRow, rows,
                     extent(run, chunks_[chunk]), 0, sums + i * ofTile);
    }
    for (size_t i = 0; i < tiles; i++) addBias(tile + i, rows, sums + i * ofTile);
    if (gated) routines_.gate(sums, sums + ofTile, ofTile, sums);
    for (size_t i = 0; i < (gated ? 1 : tiles); i++) storeTile(run, tile + i, firstRow, rows, sums + i * ofTile);
  }
}

// Inputs cut: chunk after chunk, as far as some row goes.
void PrefixProduct::multiplyInputs(const ProductRun& run, const Activations& activations, size_t task, size_t firstRow,
                                   size_t rows) const {
  const size_t firstTile = task * tilesPerTask_, tiles = tilesOf(task), atOnce = atHand(run) ? pairTiles : tiles;
  const size_t ofTile = rows * tileRows;
  alignas(64) float sums[maxTiles * maxRows * tileRows];
  std::memset(sums, 0, tiles * ofTile * sizeof(float));
  size_t active = 0;
  while (active < chunkCount_ && extent(run, chunks_[active]) > firstRow) active++;
  const size_t read = active == 0 ? 0 : chunks_[active - 1].firstByte + chunks_[active - 1].bytes;
  const size_t skipped = tiles * (tileBytes_ - read);
  size_t at = firstTile * tileBytes_;
  for (size_t c = 0; c < active; c++) {
    const size_t end = extent(run, chunks_[c]);
    for (size_t i = 0; i < tiles; i += atOnce) {
      const size_t some = least(atOnce, tiles - i);
      const bool last = c + 1 == active && i + some == tiles;
      multiplyBlocks(run, activations, at, some, c, firstRow, rows, end, last ? skipped : 0, sums + i * ofTile);
      at += some * chunks_[c].bytes;
    }
  }
  for (size_t i = 0; i < tiles; i++) {
    addBias(firstTile + i, rows, sums + i * ofTile);
    storeTile(run, firstTile + i, firstRow, rows, sums + i * ofTile);
  }
}

// The weights from `at` on, which some tiles have of a chunk, for those of `rows` rows that lie before row `end`.
void PrefixProduct::multiplyBlocks(const ProductRun& run, const Activations& activations, size_t at, size_t tiles,
                                   size_t chunk, size_t firstRow, size_t rows, size_t end, size_t skipped,
                                   float* sums) const {
  const size_t active = end > firstRow ? least(end - firstRow, rows) : 0;
  if (active == 0) return;
  const size_t first = firstRow * blocks_ + chunks_[chunk].firstBlock * rows;
  TileProduct product{};
  product.weights = weights_ + at;
  product.tiles = tiles;
  product.blocks = chunks_[chunk].blocks;
  product.blockSize = shape_.blockSize;
  product.skipped = skipped;
  product.activations = activations.codes + first * shape_.blockSize;
  product.activationScales = activations.scales + first;
  product.offsets = activations.offsets + first;
  product.groupRows = rows;
  product.sums = sums;
  groupingOf(run).multiplyTiles(product, active);
}

void PrefixProduct::addBias(size_t tile, size_t rows, float* sums) const {
  if (!bias_) return;
  for (size_t r = 0; r < rows; r++) {
    for (size_t i = 0; i < tileRows; i++) sums[r * tileRows + i] += bias_[tile * tileRows + i];
  }
}

void PrefixProduct::storeTile(const ProductRun& run, size_t tile, size_t firstRow, size_t rows,
                              const float* sums) const {
  const Tile at = tilesAt_[tile];
  const uint32_t* outputs = outputOf_ + tile * tileRows;
  const size_t count = rowsOf(tile);
  size_t extents[tileRows];
  bool all = true;  // every row computes every output
  if (shape_.cut != Cut::inputs && run.rowsUpTo) {
    all = extent(run, chunks_[at.lastChunk]) >= firstRow + rows;  // the last chunk of a tile has the fewest rows
    for (size_t i = 0; i < count && !all; i++) extents[i] = extent(run, chunks_[chunkOf_[tile * tileRows + i]]);
  }
  for (size_t r = 0; r < rows; r++) {
    const size_t row = firstRow + r;
    float* y = run.y + row * outputs_;
    const float* residual = run.residual ? run.residual + row * outputs_ : nullptr;
    const float* values = sums + r * tileRows;
    float activated[tileRows];
    if (shape_.activation == Activation::squaredRelu) {
      for (size_t i = 0; i < tileRows; i++) {
        const float positive = values[i] < 0 ? 0 : values[i];  // keeps what is no number
        activated[i] = positive * positive;
      }
      values = activated;
    }
    if (!all) {
      for (size_t i = 0; i < count; i++) {
        const float value = row < extents[i] ? values[i] : 0.0f;
        y[outputs[i]] = residual ? residual[outputs[i]] + value : value;
      }
    } else if (!at.inOrder) {
      for (size_t i = 0; i < count; i++) {
        y[outputs[i]] = residual ? residual[outputs[i]] + values[i] : values[i];
      }
    } else if (residual) {
      for (size_t i = 0; i < count; i++) y[at.firstOutput + i] = residual[at.firstOutput + i] + values[i];
    } else {
      std::memcpy(y + at.firstOutput, values, count * sizeof(float));
    }
  }
}

// What becomes of outputs that no row computes: nothing is added.
void PrefixProduct::clearTiles(const ProductRun& run, size_t firstTile) const {
  const bool gated = shape_.cut == Cut::gated;
  // Gated channels lie in order, two tiles for sixteen of them.
  const size_t first = gated ? firstTile / 2 * tileRows : firstTile * tileRows, end = gated ? widest_ : packedRows_;
  for (size_t row = 0; row < run.rows; row++) {
    float* y = run.y + row * outputs_;
    const float* residual = run.residual ? run.residual + row * outputs_ : nullptr;
    for (size_t i = first; i < end; i++) {
      const size_t output = gated ? i : outputOf_[i];
      y[output] = residual ? residual[output] : 0.0f;
    }
  }
}

}  // namespace espalier

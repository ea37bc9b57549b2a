#include "prefix_product.h"

#include <algorithm>

namespace espalier::cuda {
namespace {

// More than this, and fewer blocks than wanted would share a multiprocessor.
constexpr int mostOwnUnits = 160;

int roundedUp(int value, int divisor) { return (value + divisor - 1) / divisor; }

}  // namespace

const char* planProduct(const ProductShape& shape, const StoredChunk* chunks, size_t count, ProductParameters* out) {
  if (count == 0 || count > static_cast<size_t>(maxSegments)) return "too many chunks for one launch";
  if (shape.blockSize != 32 && shape.blockSize != 64 && shape.blockSize != 128) {
    return "the block size must be 32, 64 or 128";
  }
  ProductParameters& p = *out = {};
  p.cut = static_cast<int>(shape.cut);
  p.activation = static_cast<int>(shape.activation);
  p.blockShift = shape.blockSize == 32 ? 5 : shape.blockSize == 64 ? 6 : 7;
  p.axes = static_cast<int>(shape.axes);
  p.segments = static_cast<int>(count);
  const bool inputsCut = shape.cut == Cut::inputs, gated = shape.cut == Cut::gated;
  int narrowest = 0;
  for (size_t c = 0; c < count; c++) narrowest = std::max(narrowest, static_cast<int>(chunks[c].level));
  for (size_t c = 0; c < count; c++) {
    const StoredChunk& chunk = chunks[c];
    Segment& s = p.segment[c];
    s.codes = chunk.codes, s.scales = chunk.scales, s.bias = chunk.bias;
    s.level = static_cast<int>(chunk.level);
    const int channels = static_cast<int>(shape.channelsOf(chunk)), uncut = static_cast<int>(shape.uncut);
    s.rows = inputsCut ? uncut : channels;
    s.columns = inputsCut ? channels : uncut;
    s.blocks = roundedUp(s.columns, static_cast<int>(shape.blockSize));
    s.firstTile = inputsCut ? 0 : p.tiles;
    s.firstUnit = inputsCut ? p.units : 0;
    for (size_t axis = 0; axis < shape.axes; axis++) {
      s.widths[axis] = static_cast<int>(chunk.widths[axis]);
      s.starts[axis] = p.widest[axis];
      p.widest[axis] += s.widths[axis];
    }
    const int tiles = gated ? roundedUp(s.widths[0], tileRows / 2) : roundedUp(s.rows, tileRows);
    const int units = roundedUp(s.columns, unitColumns);
    p.tiles = inputsCut ? tiles : p.tiles + tiles;
    p.units = inputsCut ? p.units + units : units;
    if (s.level == narrowest) {
      p.certainTiles = p.tiles;
      p.certainUnits = p.units;
    }
  }
  int channels = 0;
  for (size_t axis = 0; axis < shape.axes; axis++) {
    p.groups[axis] = static_cast<int>(shape.groups[axis]);
    p.axisStarts[axis] = channels;
    channels += gated ? p.widest[axis] : p.groups[axis] * p.widest[axis];
  }
  p.inputs = inputsCut ? channels : static_cast<int>(shape.uncut);
  p.outputs = inputsCut ? static_cast<int>(shape.uncut) : channels;
  return nullptr;
}

size_t preparedBytes(const ProductParameters& p, int rows) {
  if (rows == 1 && p.units <= mostOwnUnits) return 0;
  return static_cast<size_t>(rows) * static_cast<size_t>(p.units) * unitColumns * sizeof(uint16_t);
}

size_t productLaunches(const ProductParameters& p, int rows, int multiprocessors, ProductLaunch out[2]) {
  const auto asUnsigned = [](int value) { return static_cast<unsigned>(value); };
  const bool prepares = preparedBytes(p, rows) > 0;
  size_t count = 0;
  if (prepares) out[count++] = {ProductKernel::prepareRows, asUnsigned(rows), 1, 256, 8 * sizeof(float)};
  if (rows > mostFewRows) {
    constexpr int blockTiles = 8, blockTokens = 128, stages = 2;
    constexpr size_t stageBytes = blockTokens * unitColumns * 2 + blockTiles * tileRows * unitColumns / 2;
    out[count++] = {ProductKernel::multiplyMany, asUnsigned(roundedUp(rows, blockTokens)),
                    asUnsigned(roundedUp(p.tiles, blockTiles)), 256, stages * stageBytes};
    return count;
  }
  constexpr int warps = 8, blocksPerMultiprocessor = 3;
  const int columns = rows <= 8 ? 8 : rows <= 16 ? 16 : 32;
  const ProductKernel kernel = !prepares       ? ProductKernel::multiplyOne
                               : columns == 8  ? ProductKernel::multiplyFew8
                               : columns == 16 ? ProductKernel::multiplyFew16
                                               : ProductKernel::multiplyFew32;
  const size_t sums = 2 * warps * tileRows * static_cast<size_t>(columns) * sizeof(float);
  const size_t row = prepares ? 0 : static_cast<size_t>(p.units) * unitColumns * sizeof(uint16_t);
  out[count++] = {kernel, asUnsigned(std::min(p.tiles, blocksPerMultiprocessor * multiprocessors)), 1, 32 * warps,
                  sums + row};
  return count;
}

}  // namespace espalier::cuda

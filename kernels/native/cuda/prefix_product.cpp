#include "prefix_product.h"

#include <algorithm>
#include <cstring>

namespace espalier::cuda {
namespace {

// Units of a row that one block keeps in shared memory; with more, too few blocks would share a multiprocessor.
constexpr int mostOwnUnits = 112;

constexpr size_t partAlignment = 256;

int roundedUp(int value, int divisor) { return (value + divisor - 1) / divisor; }

size_t aligned(size_t bytes) { return (bytes + partAlignment - 1) / partAlignment * partAlignment; }

// The stored row in a place of a segment's tile; -1 for none.
int storedRow(const ProductShape& shape, const StoredChunk& chunk, int rows, int tile, int slot) {
  if (shape.cut != Cut::gated) return tile * tileRows + slot < rows ? tile * tileRows + slot : -1;
  const int width = static_cast<int>(chunk.widths[0]), channel = tile * tileRows / 2 + slot % (tileRows / 2);
  if (channel >= width) return -1;
  return slot < tileRows / 2 ? channel : width + channel;
}

struct Extents {
  int rows, columns, blocks, tiles, units;
};

Extents extentsOf(const ProductShape& shape, const StoredChunk& chunk) {
  const int channels = static_cast<int>(shape.channelsOf(chunk)), uncut = static_cast<int>(shape.uncut);
  const bool inputsCut = shape.cut == Cut::inputs;
  Extents e{};
  e.rows = inputsCut ? uncut : channels;
  e.columns = inputsCut ? channels : uncut;
  e.blocks = roundedUp(e.columns, static_cast<int>(shape.blockSize));
  e.tiles = shape.cut == Cut::gated ? roundedUp(static_cast<int>(chunk.widths[0]), tileRows / 2)
                                    : roundedUp(e.rows, tileRows);
  e.units = roundedUp(e.columns, unitColumns);
  return e;
}

}  // namespace

size_t ProductPlan::packedBytes() const {
  return aligned(codeBytes) + aligned(scaleBytes) + aligned(outputOf.size() * sizeof(int32_t)) +
         aligned(inputOf.size() * sizeof(int32_t)) + aligned(bias.size() * sizeof(float));
}

const char* planProduct(const ProductShape& shape, const StoredChunk* chunks, size_t count, ProductPlan* out) {
  if (count == 0 || count > static_cast<size_t>(maxSegments)) return "too many chunks for one launch";
  if (shape.blockSize != 32 && shape.blockSize != 64 && shape.blockSize != 128) {
    return "the block size must be 32, 64 or 128";
  }
  *out = {};
  ProductParameters& p = out->parameters;
  const bool inputsCut = shape.cut == Cut::inputs, gated = shape.cut == Cut::gated;
  p.cut = static_cast<int>(shape.cut);
  p.activation = static_cast<int>(shape.activation);
  p.unitBlocksShift = shape.blockSize == 32 ? 2 : shape.blockSize == 64 ? 1 : 0;
  p.segments = static_cast<int>(count);
  int narrowest = 0, widest[maxAxes] = {}, axisStarts[maxAxes] = {}, channels = 0;
  bool biased = false;
  for (size_t c = 0; c < count; c++) {
    narrowest = std::max(narrowest, static_cast<int>(chunks[c].level));
    biased = biased || chunks[c].bias;
    for (size_t axis = 0; axis < shape.axes; axis++) widest[axis] += static_cast<int>(chunks[c].widths[axis]);
  }
  for (size_t axis = 0; axis < shape.axes; axis++) {
    axisStarts[axis] = channels;
    channels += gated ? widest[axis] : static_cast<int>(shape.groups[axis]) * widest[axis];
  }
  p.inputs = inputsCut ? channels : static_cast<int>(shape.uncut);
  p.outputs = inputsCut ? static_cast<int>(shape.uncut) : channels;

  std::vector<int32_t> columnInputs;  // [units][128]
  int before[maxAxes] = {};
  for (size_t c = 0; c < count; c++) {
    const StoredChunk& chunk = chunks[c];
    const Extents e = extentsOf(shape, chunk);
    p.levels[c] = static_cast<int>(chunk.level);
    p.starts[c] = inputsCut ? p.units : p.tiles;
    if (!inputsCut || c == 0) {
      for (int tile = 0; tile < e.tiles; tile++) {
        for (int slot = 0; slot < tileRows; slot++) {
          int row = storedRow(shape, chunk, e.rows, tile, slot), output = row;
          if (row >= 0 && gated) {
            output = before[0] + row % static_cast<int>(chunk.widths[0]);
          } else if (row >= 0 && !inputsCut) {
            size_t axis = 0;
            while (row >= static_cast<int>(shape.groups[axis] * chunk.widths[axis])) {
              row -= static_cast<int>(shape.groups[axis] * chunk.widths[axis]);
              axis++;
            }
            const int width = static_cast<int>(chunk.widths[axis]);
            output = axisStarts[axis] + row / width * widest[axis] + before[axis] + row % width;
          }
          out->outputOf.push_back(output);
        }
      }
    }
    if (inputsCut) {
      for (int column = 0; column < e.units * unitColumns; column++) {
        const int width = static_cast<int>(chunk.widths[0]);
        columnInputs.push_back(column < e.columns ? column / width * widest[0] + before[0] + column % width : -1);
      }
    }
    if (biased) {
      const size_t first = inputsCut ? 0 : static_cast<size_t>(p.tiles * tileRows);
      out->bias.resize(first + static_cast<size_t>(e.tiles * tileRows), 0.0f);
      for (int i = 0; i < e.tiles * tileRows && chunk.bias; i++) {
        const int row = storedRow(shape, chunk, e.rows, i / tileRows, i % tileRows);
        if (row >= 0) out->bias[first + static_cast<size_t>(i)] += chunk.bias[row];
      }
    }
    p.tiles = inputsCut ? e.tiles : p.tiles + e.tiles;
    p.units = inputsCut ? p.units + e.units : e.units;
    if (static_cast<int>(chunk.level) == narrowest) {
      p.certainTiles = p.tiles;
      p.certainUnits = p.units;
    }
    for (size_t axis = 0; axis < shape.axes; axis++) before[axis] += static_cast<int>(chunk.widths[axis]);
  }

  // Columns come eight at a time where their inputs do, and need no table where they are the inputs in order.
  p.inputStep = 8;
  bool inOrder = true;
  for (size_t i = 0; i < columnInputs.size(); i++) {
    const int32_t first = columnInputs[i - i % 8];
    const int32_t wanted = first < 0 ? -1 : first + static_cast<int32_t>(i % 8);
    if (columnInputs[i] != wanted || (i % 8 == 0 && first > 0 && first % 4 != 0)) p.inputStep = 1;
    inOrder = inOrder && columnInputs[i] == (static_cast<int>(i) < p.inputs ? static_cast<int32_t>(i) : -1);
  }
  if (!inputsCut && p.inputs % 8 != 0) {
    inOrder = false;
    p.inputStep = 1;
    for (int i = 0; i < p.units * unitColumns; i++) columnInputs.push_back(i < p.inputs ? i : -1);
  }
  if (inputsCut && p.inputs % 4 != 0) p.inputStep = 1;  // rows of the batch are not aligned
  if (inOrder && p.inputStep == 8) {
    columnInputs.clear();
  }
  for (size_t i = 0; i < columnInputs.size(); i += static_cast<size_t>(p.inputStep)) {
    out->inputOf.push_back(columnInputs[i]);
  }
  const size_t parts = static_cast<size_t>(p.tiles) * static_cast<size_t>(p.units);
  out->codeBytes = parts * unitBytes;
  out->scaleBytes = (parts << p.unitBlocksShift) * (tileRows / 2) * sizeof(uint32_t);
  return nullptr;
}

void packProduct(const ProductShape& shape, const StoredChunk* chunks, size_t count, const ProductPlan& plan,
                 uint8_t* out) {
  const ProductParameters& p = plan.parameters;
  const bool inputsCut = shape.cut == Cut::inputs;
  const size_t units = static_cast<size_t>(p.units), lanesOfRow = 4, laneBytes = 16;
  auto* const scales = reinterpret_cast<uint16_t*>(out + aligned(plan.codeBytes));
  std::memset(out, 0, aligned(plan.codeBytes) + aligned(plan.scaleBytes));
  for (size_t c = 0; c < count; c++) {
    const StoredChunk& chunk = chunks[c];
    const Extents e = extentsOf(shape, chunk);
    const size_t firstTile = inputsCut ? 0 : static_cast<size_t>(p.starts[c]);
    const size_t firstUnit = inputsCut ? static_cast<size_t>(p.starts[c]) : 0;
    const size_t rowBytes = static_cast<size_t>(e.blocks) * shape.blockSize / 2;
    const size_t unitBlocks = size_t{1} << p.unitBlocksShift;
    for (int i = 0; i < e.tiles * tileRows; i++) {
      const int row = storedRow(shape, chunk, e.rows, i / tileRows, i % tileRows);
      if (row < 0) continue;
      const size_t tile = firstTile + static_cast<size_t>(i / tileRows), slot = static_cast<size_t>(i % tileRows);
      const uint8_t* const codes = chunk.codes + static_cast<size_t>(row) * rowBytes;
      for (size_t at = 0; at < rowBytes; at += laneBytes) {
        const size_t unit = firstUnit + at / (lanesOfRow * laneBytes), t = at / laneBytes % lanesOfRow;
        const size_t place = (slot / 8 * 32 + slot % 8 * lanesOfRow + t) * laneBytes;
        std::memcpy(out + (tile * units + unit) * unitBytes + place, codes + at, laneBytes);
      }
      for (size_t block = 0; block < static_cast<size_t>(e.blocks); block++) {
        const size_t unit = firstUnit + block / unitBlocks;
        scales[(((tile * units + unit) * unitBlocks + block % unitBlocks) * 8 + slot % 8) * 2 + slot / 8] =
            chunk.scales[static_cast<size_t>(row) * static_cast<size_t>(e.blocks) + block];
      }
    }
  }
  uint8_t* at = out + aligned(plan.codeBytes) + aligned(plan.scaleBytes);
  const auto append = [&at](const void* data, size_t bytes) {
    if (bytes) std::memcpy(at, data, bytes);
    at += aligned(bytes);
  };
  append(plan.outputOf.data(), plan.outputOf.size() * sizeof(int32_t));
  append(plan.inputOf.data(), plan.inputOf.size() * sizeof(int32_t));
  append(plan.bias.data(), plan.bias.size() * sizeof(float));
}

ProductParameters placeProduct(const ProductPlan& plan, const void* packed) {
  ProductParameters p = plan.parameters;
  const auto* at = static_cast<const uint8_t*>(packed);
  const auto next = [&at](size_t bytes) {
    const uint8_t* part = bytes ? at : nullptr;
    at += aligned(bytes);
    return part;
  };
  p.codes = next(plan.codeBytes);
  p.scales = reinterpret_cast<const uint32_t*>(next(plan.scaleBytes));
  p.outputOf = reinterpret_cast<const int32_t*>(next(plan.outputOf.size() * sizeof(int32_t)));
  p.inputOf = reinterpret_cast<const int32_t*>(next(plan.inputOf.size() * sizeof(int32_t)));
  p.bias = reinterpret_cast<const float*>(next(plan.bias.size() * sizeof(float)));
  return p;
}

size_t preparedBytes(const ProductParameters& p, int rows, const ProductDevice& device) {
  if (rows == 1 && p.units <= mostOwnUnits) return 0;
  const int held = device.wide && rows > mostFewRows ? roundedUp(rows, preparedTokens) * preparedTokens : rows;
  return static_cast<size_t>(held) * static_cast<size_t>(p.units) * unitColumns * sizeof(uint16_t);
}

namespace {

unsigned asUnsigned(int value) { return static_cast<unsigned>(value); }

// A kernel for many rows.
struct Wide {
  ProductKernel kernel;
  int tiles, tokens;  // of a block
  int time;           // that a block takes, relative, where its multiprocessor has no other
  unsigned threads;
  size_t sharedBytes[3];  // for 1, 2, 4 blocks of a unit
};

template <int groups, int tokens>
constexpr Wide wideKernel(ProductKernel kernel) {
  using Shape = WideShape<groups, tokens>;
  return {kernel,
          Shape::tiles,
          tokens,
          Shape::tiles * tokens,
          Shape::threads,
          {Shape::template Blocks<0>::sharedBytes, Shape::template Blocks<1>::sharedBytes,
           Shape::template Blocks<2>::sharedBytes}};
}

template <int warpTiles, int warpEights>
constexpr Wide manyKernel(ProductKernel kernel) {
  using Shape = ManyShape<warpTiles, warpEights>;
  constexpr size_t bytes = Shape::sharedBytes;
  // A fragment that is loaded or unpacked serves fewer products where a warp has fewer.
  constexpr int overhead = 2;
  return {kernel,        Shape::tiles,
          Shape::tokens, 4 * (4 * warpTiles * warpEights + overhead * (4 * warpTiles + warpEights)),
          256,           {bytes, bytes, bytes}};
}

constexpr Wide wideKernels[] = {
    wideKernel<3, 128>(ProductKernel::multiplyWide3By128), wideKernel<2, 128>(ProductKernel::multiplyWide2By128),
    wideKernel<1, 128>(ProductKernel::multiplyWide1By128), wideKernel<2, 64>(ProductKernel::multiplyWide2By64),
    wideKernel<1, 64>(ProductKernel::multiplyWide1By64)};

constexpr Wide manyKernels[] = {manyKernel<4, 8>(ProductKernel::multiplyMany256By128),
                                manyKernel<2, 8>(ProductKernel::multiplyMany128By128),
                                manyKernel<2, 4>(ProductKernel::multiplyMany128By64)};

// The one whose rounds over all multiprocessors, or over pairs of them, take the least time.
template <size_t count>
const Wide& fastest(const Wide (&kernels)[count], const ProductParameters& p, int rows, int multiprocessors,
                    int together) {
  const Wide* best = nullptr;
  int bestTime = 0;
  for (const Wide& wide : kernels) {
    const int pieces = roundedUp(p.tiles, together * wide.tiles) * roundedUp(rows, wide.tokens);
    const int time = roundedUp(pieces, std::max(multiprocessors / together, 1)) * wide.time;
    if (!best || time < bestTime) best = &wide, bestTime = time;
  }
  return *best;
}

}  // namespace

size_t productLaunches(const ProductParameters& p, int rows, const ProductDevice& device, ProductLaunch out[2]) {
  const bool prepares = preparedBytes(p, rows, device) > 0;
  constexpr unsigned threads = 256;
  if (device.wide && rows > mostFewRows) {
    constexpr int together = 2;
    const Wide& wide = fastest(wideKernels, p, rows, device.multiprocessors, together);
    const int pieces = roundedUp(p.tiles, together * wide.tiles) * roundedUp(rows, wide.tokens);
    const int clusters = std::min(pieces, std::max(device.multiprocessors / together, 1));
    out[0] = {ProductKernel::prepareTiles, asUnsigned(rows), 1, threads, 0};
    out[1] = {wide.kernel, asUnsigned(together * clusters), 1, wide.threads, wide.sharedBytes[p.unitBlocksShift]};
    return 2;
  }
  size_t count = 0;
  if (prepares) out[count++] = {ProductKernel::prepareRows, asUnsigned(rows), 1, threads, 0};
  if (rows > mostFewRows) {
    const Wide& many = fastest(manyKernels, p, rows, device.multiprocessors, 1);
    out[count++] = {many.kernel, asUnsigned(roundedUp(rows, many.tokens)), asUnsigned(roundedUp(p.tiles, many.tiles)),
                    many.threads, many.sharedBytes[p.unitBlocksShift]};
    return count;
  }
  const int columns = !prepares ? 1 : rows <= 8 ? 8 : rows <= 16 ? 16 : 32;
  const ProductKernel kernel = columns == 1    ? ProductKernel::multiplyOne
                               : columns == 8  ? ProductKernel::multiplyFew8
                               : columns == 16 ? ProductKernel::multiplyFew16
                                               : ProductKernel::multiplyFew32;
  const size_t sums = 2 * static_cast<size_t>(fewRows.warps) * tileRows * static_cast<size_t>(columns) * sizeof(float);
  // The row, 64 bytes of zeros, and the norm's weights.
  const size_t row = prepares ? 0
                              : static_cast<size_t>(p.units) * unitColumns * sizeof(uint16_t) + 64 +
                                    (p.normWeight ? static_cast<size_t>(p.inputs) * sizeof(float) : 0);
  out[count++] = {kernel, asUnsigned(std::min(p.tiles, fewRows.blocks * device.multiprocessors)), 1, 32 * fewRows.warps,
                  sums + row};
  return count;
}

}  // namespace espalier::cuda

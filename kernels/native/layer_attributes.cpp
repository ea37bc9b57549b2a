#include "layer_attributes.h"

#include "rounding.h"

namespace espalier {
namespace {

// Stored rows of a chunk.
size_t rowsOf(const ProductShape& shape, const StoredChunk& chunk) {
  return shape.cut == Cut::inputs ? shape.uncut : shape.channelsOf(chunk);
}

// Codes, scales and a bias.
constexpr size_t maxConstants = 3 * maxChunks;

// A layer's constants, one after another.
class ConstantReader {
 public:
  explicit ConstantReader(const OperatorInfo& info) : api_(info.api), info_(info) {}

  ort::Status* open(Constants from) {
    if (from == Constants::inputs) return nullptr;
    Shape shape;
    RETURN_IF_FAILED(readConstant(info_, firstConstant, &file_, &shape));
    bytes_ = static_cast<size_t>(shape.count());
    return readIntegers(info_, "places", places_, maxConstants, &placeCount_);
  }

  template <typename T>
  ort::Status* next(size_t count, const T** data) {
    const size_t index = read_++;
    if (!file_) {
      Shape shape;
      RETURN_IF_FAILED(readConstant(info_, firstConstant + index, data, &shape));
      if (shape.count() == static_cast<int64_t>(count)) return nullptr;
      return failure(api_, "PrefixMatMul: input %zu has %lld elements, wanted %zu", firstConstant + index,
                     static_cast<long long>(shape.count()), count);
    }
    if (index >= placeCount_) return failure(api_, "PrefixMatMul: %zu places, wanted more", placeCount_);
    const int64_t place = places_[index];
    if (place < 0 || place % static_cast<int64_t>(alignof(T)) != 0 || static_cast<size_t>(place) > bytes_ ||
        (bytes_ - static_cast<size_t>(place)) / sizeof(T) < count) {
      return failure(api_, "PrefixMatMul: %zu elements of %zu bytes at byte %lld of %zu", count, sizeof(T),
                     static_cast<long long>(place), bytes_);
    }
    *data = reinterpret_cast<const T*>(file_ + place);
    return nullptr;
  }

  ort::Status* close() const {
    if (!file_ || read_ == placeCount_) return nullptr;
    return failure(api_, "PrefixMatMul: %zu places, wanted %zu", placeCount_, read_);
  }

 private:
  ort::Api api_;
  const OperatorInfo& info_;
  const uint8_t* file_ = nullptr;
  size_t bytes_ = 0, placeCount_ = 0, read_ = 0;
  int64_t places_[maxConstants];
};

}  // namespace

size_t blocksOf(const ProductShape& shape, const StoredChunk& chunk) {
  const size_t columns = shape.cut == Cut::inputs ? shape.channelsOf(chunk) : shape.uncut;
  return rowsOf(shape, chunk) * ceilDivide(columns, shape.blockSize);
}

ort::Status* readLayer(const OperatorInfo& info, Constants from, Layer* out) {
  const ort::Api api = info.api;
  Layer& layer = *out = {};
  ProductShape& shape = layer.shape;
  size_t cut = 0, activation = 0, widthCount = 0, biasCount = 0;
  int64_t groups[maxAxes], widths[maxAxes * maxChunks], levels[maxChunks], biases[maxChunks];
  RETURN_IF_FAILED(readInteger(info, "cut", &cut));
  RETURN_IF_FAILED(readInteger(info, "activation", &activation));
  RETURN_IF_FAILED(readIntegers(info, "groups", groups, maxAxes, &shape.axes));
  RETURN_IF_FAILED(readInteger(info, "uncut", &shape.uncut));
  RETURN_IF_FAILED(readInteger(info, "block_size", &shape.blockSize));
  RETURN_IF_FAILED(readFloat(info, "epsilon", &layer.epsilon));
  RETURN_IF_FAILED(readIntegers(info, "widths", widths, maxAxes * maxChunks, &widthCount));
  RETURN_IF_FAILED(readIntegers(info, "levels", levels, maxChunks, &layer.chunkCount));
  RETURN_IF_FAILED(readIntegers(info, "biases", biases, maxChunks, &biasCount));
  if (cut > 2 || activation > 1 || shape.uncut == 0) {
    return failure(api,
                   "PrefixMatMul: cut %zu, activation %zu, uncut %zu describe no layer: wanted a cut of 0 to 2, an "
                   "activation of 0 or 1, uncut at least 1",
                   cut, activation, shape.uncut);
  }
  // Others are in no artefact, and not every instruction set computes with them.
  if (shape.blockSize != 32 && shape.blockSize != 64 && shape.blockSize != 128) {
    return failure(api, "PrefixMatMul: block_size %zu, wanted 32, 64 or 128", shape.blockSize);
  }
  shape.cut = static_cast<Cut>(cut);
  shape.activation = static_cast<Activation>(activation);
  if (shape.axes == 0 || (shape.cut != Cut::outputs && (shape.axes > 1 || activation != 0))) {
    return failure(api, "PrefixMatMul: cut %zu has %zu axes and activation %zu: only outputs can have several, or any",
                   cut, shape.axes, activation);
  }
  for (size_t axis = 0; axis < shape.axes; axis++) {
    if (groups[axis] <= 0 || (shape.cut == Cut::gated && groups[axis] != 2)) {
      return failure(api, "PrefixMatMul: axis %zu has %lld groups: wanted at least one, and two where they are gated",
                     axis, static_cast<long long>(groups[axis]));
    }
    shape.groups[axis] = static_cast<size_t>(groups[axis]);
  }
  if (layer.chunkCount == 0 || widthCount != shape.axes * layer.chunkCount || biasCount != layer.chunkCount) {
    return failure(api, "PrefixMatMul: %zu widths, %zu levels and %zu biases of %zu axes do not belong together",
                   widthCount, layer.chunkCount, biasCount, shape.axes);
  }
  ConstantReader constants(info);
  RETURN_IF_FAILED(constants.open(from));
  for (size_t c = 0; c < layer.chunkCount; c++) {
    StoredChunk& chunk = layer.chunks[c];
    if (levels[c] < 0 || (c > 0 && levels[c] > levels[c - 1])) {
      return failure(api, "PrefixMatMul: chunk %zu has level %lld: levels must not be negative or grow", c,
                     static_cast<long long>(levels[c]));
    }
    chunk.level = static_cast<size_t>(levels[c]);
    for (size_t axis = 0; axis < shape.axes; axis++) {
      const int64_t width = widths[c * shape.axes + axis];
      if (width < 0) {
        return failure(api, "PrefixMatMul: chunk %zu has width %lld: it must not be negative", c,
                       static_cast<long long>(width));
      }
      chunk.widths[axis] = static_cast<size_t>(width);
    }
    if (shape.channelsOf(chunk) == 0) return failure(api, "PrefixMatMul: chunk %zu has no channels", c);
    const size_t blocks = blocksOf(shape, chunk);
    RETURN_IF_FAILED(constants.next(blocks * shape.blockSize / 2, &chunk.codes));
    RETURN_IF_FAILED(constants.next(blocks, &chunk.scales));
    if (biases[c]) RETURN_IF_FAILED(constants.next(rowsOf(shape, chunk), &chunk.bias));
  }
  RETURN_IF_FAILED(constants.close());
  if (shape.cut == Cut::outputs && shape.axes == 1 && shape.groups[0] > 1) layer.heads = shape.groups[0];
  return nullptr;
}

ort::Status* readRun(Operands& operands, const LayerSizes& sizes, ProductRun* out) {
  const ort::Api api = operands.api;
  ProductRun& run = *out;
  Shape shape, rowsShape, normShape, residualShape;
  RETURN_IF_FAILED(operands.input(LayerInput::x, &run.x, &shape));
  RETURN_IF_FAILED(operands.input(LayerInput::rowsUpTo, &run.rowsUpTo, &rowsShape));
  RETURN_IF_FAILED(operands.input(LayerInput::normWeight, &run.normWeight, &normShape));
  RETURN_IF_FAILED(operands.input(LayerInput::residual, &run.residual, &residualShape));
  const int64_t rows = shape.rank > 0 ? shape.sizes[0] : 0;
  const auto elements = [rows](size_t columns) { return rows * static_cast<int64_t>(columns); };
  if (shape.rank < 2 || shape.count() != elements(sizes.inputs)) {
    return failure(api, "PrefixMatMul: x has %lld elements in %lld rows, wanted %zu a row",
                   static_cast<long long>(shape.count()), static_cast<long long>(rows), sizes.inputs);
  }
  if (run.rowsUpTo && rowsShape.count() < static_cast<int64_t>(sizes.levels)) {
    return failure(api, "PrefixMatMul: rows are counted for %lld levels, wanted %zu",
                   static_cast<long long>(rowsShape.count()), sizes.levels);
  }
  if (run.normWeight && normShape.count() != static_cast<int64_t>(sizes.inputs)) {
    return failure(api, "PrefixMatMul: the norm has %lld weights, wanted %zu",
                   static_cast<long long>(normShape.count()), sizes.inputs);
  }
  if (run.residual && residualShape.count() != elements(sizes.outputs)) {
    return failure(api, "PrefixMatMul: the residual has %lld elements, wanted %lld",
                   static_cast<long long>(residualShape.count()), static_cast<long long>(elements(sizes.outputs)));
  }
  Shape y;
  y.sizes[y.rank++] = rows;
  if (sizes.heads) y.sizes[y.rank++] = static_cast<int64_t>(sizes.heads);
  y.sizes[y.rank++] = static_cast<int64_t>(sizes.heads ? sizes.outputs / sizes.heads : sizes.outputs);
  RETURN_IF_FAILED(operands.output(y, &run.y));
  run.rows = static_cast<size_t>(rows);
  return nullptr;
}

}  // namespace espalier

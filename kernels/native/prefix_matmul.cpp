#include "prefix_matmul.h"

#include "memory.h"
#include "operator.h"
#include "prefix_product.h"

namespace espalier {
namespace {

constexpr size_t maxChunks = 64;

// Inputs before the chunks.
enum Input : size_t { x = 0, rowsUpTo = 1, normWeight = 2, residual = 3, firstChunk = 4 };

struct PrefixMatMul {
  explicit PrefixMatMul(ort::Api api) : api(api) {}
  ~PrefixMatMul() {
    delete product;
    if (allocator) ort::ReleaseAllocator::call(api, allocator);
  }
  PrefixMatMul(const PrefixMatMul&) = delete;
  PrefixMatMul& operator=(const PrefixMatMul&) = delete;

  ort::Api api;
  ort::Allocator* allocator = nullptr;
  PrefixProduct* product = nullptr;
  float epsilon = 0;
  size_t heads = 0;  // of an output of rank 3; 0 for rank 2

  ort::Status* prepare(const ort::KernelInfo* info) {
    ProductShape shape{};
    size_t cut = 0, activation = 0, widthCount = 0, chunkCount = 0, biasCount = 0;
    int64_t groups[maxAxes], widths[maxAxes * maxChunks], levels[maxChunks], biases[maxChunks];
    RETURN_IF_FAILED(ort::GetAllocator::call(api, info, 0, &allocator));
    RETURN_IF_FAILED(readInteger(api, info, "cut", &cut));
    RETURN_IF_FAILED(readInteger(api, info, "activation", &activation));
    RETURN_IF_FAILED(readIntegers(api, info, "groups", groups, maxAxes, &shape.axes));
    RETURN_IF_FAILED(readInteger(api, info, "uncut", &shape.uncut));
    RETURN_IF_FAILED(readInteger(api, info, "block_size", &shape.blockSize));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "epsilon", &epsilon));
    RETURN_IF_FAILED(readIntegers(api, info, "widths", widths, maxAxes * maxChunks, &widthCount));
    RETURN_IF_FAILED(readIntegers(api, info, "levels", levels, maxChunks, &chunkCount));
    RETURN_IF_FAILED(readIntegers(api, info, "biases", biases, maxChunks, &biasCount));
    if (cut > 2 || activation > 1 || shape.uncut == 0 || shape.blockSize % 32 != 0 || shape.blockSize == 0) {
      return failure(api, "PrefixMatMul: cut %zu, activation %zu, uncut %zu, block_size %zu are no layer", cut,
                     activation, shape.uncut, shape.blockSize);
    }
    shape.cut = static_cast<Cut>(cut);
    shape.activation = static_cast<Activation>(activation);
    if (shape.axes == 0 || (shape.cut != Cut::outputs && (shape.axes > 1 || activation != 0))) {
      return failure(api,
                     "PrefixMatMul: cut %zu has %zu axes and activation %zu: only outputs can have several, or any",
                     cut, shape.axes, activation);
    }
    for (size_t axis = 0; axis < shape.axes; axis++) {
      if (groups[axis] <= 0 || (shape.cut == Cut::gated && groups[axis] != 2)) {
        return failure(api, "PrefixMatMul: axis %zu has %lld groups: wanted at least one, and two where they are gated",
                       axis, static_cast<long long>(groups[axis]));
      }
      shape.groups[axis] = static_cast<size_t>(groups[axis]);
    }
    if (chunkCount == 0 || widthCount != shape.axes * chunkCount || biasCount != chunkCount) {
      return failure(api, "PrefixMatMul: %zu widths, %zu levels and %zu biases of %zu axes do not belong together",
                     widthCount, chunkCount, biasCount, shape.axes);
    }
    StoredChunk chunks[maxChunks] = {};
    size_t input = firstChunk;
    for (size_t c = 0; c < chunkCount; c++) {
      StoredChunk& chunk = chunks[c];
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
      RETURN_IF_FAILED(constant(info, input++, blocks * shape.blockSize / 2, &chunk.codes));
      RETURN_IF_FAILED(constant(info, input++, blocks, &chunk.scales));
      if (biases[c]) RETURN_IF_FAILED(constant(info, input++, rowsOf(shape, chunk), &chunk.bias));
    }
    product = PrefixProduct::create(*routines, shape, chunks, chunkCount);
    if (!product) return failure(api, "PrefixMatMul: not enough memory to pack the weights");
    if (shape.cut == Cut::outputs && shape.axes == 1 && shape.groups[0] > 1) heads = shape.groups[0];
    for (size_t c = 0; c < chunkCount; c++) {
      const size_t blocks = blocksOf(shape, chunks[c]);
      dropMappedPages(chunks[c].codes, blocks * shape.blockSize / 2);
      dropMappedPages(chunks[c].scales, blocks * sizeof(uint16_t));
    }
    return nullptr;
  }

  // Stored rows of a chunk.
  static size_t rowsOf(const ProductShape& shape, const StoredChunk& chunk) {
    return shape.cut == Cut::inputs ? shape.uncut : shape.channelsOf(chunk);
  }

  // Blocks of all stored rows of a chunk.
  static size_t blocksOf(const ProductShape& shape, const StoredChunk& chunk) {
    const size_t columns = shape.cut == Cut::inputs ? shape.channelsOf(chunk) : shape.uncut;
    return rowsOf(shape, chunk) * ((columns + shape.blockSize - 1) / shape.blockSize);
  }

  template <typename T>
  ort::Status* constant(const ort::KernelInfo* info, size_t index, size_t count, const T** data) const {
    Shape shape;
    RETURN_IF_FAILED(readConstant(api, info, index, data, &shape));
    if (shape.count() == static_cast<int64_t>(count)) return nullptr;
    return failure(api, "PrefixMatMul: input %zu has %lld elements, wanted %zu", index,
                   static_cast<long long>(shape.count()), count);
  }

  ort::Status* compute(ort::KernelContext* context) const {
    ProductRun run{};
    Shape shape, rowsShape, normShape, residualShape;
    RETURN_IF_FAILED(readInput(api, context, Input::x, &run.x, &shape));
    RETURN_IF_FAILED(readInput(api, context, Input::rowsUpTo, &run.rowsUpTo, &rowsShape));
    RETURN_IF_FAILED(readInput(api, context, Input::normWeight, &run.normWeight, &normShape));
    RETURN_IF_FAILED(readInput(api, context, Input::residual, &run.residual, &residualShape));
    const int64_t rows = shape.rank > 0 ? shape.sizes[0] : 0;
    const auto elements = [rows](size_t columns) { return rows * static_cast<int64_t>(columns); };
    if (shape.rank < 2 || shape.count() != elements(product->inputs())) {
      return failure(api, "PrefixMatMul: x has %lld elements in %lld rows, wanted %zu a row",
                     static_cast<long long>(shape.count()), static_cast<long long>(rows), product->inputs());
    }
    if (run.rowsUpTo && rowsShape.count() < static_cast<int64_t>(product->levels())) {
      return failure(api, "PrefixMatMul: rows are counted for %lld levels, wanted %zu",
                     static_cast<long long>(rowsShape.count()), product->levels());
    }
    if (run.normWeight && normShape.count() != static_cast<int64_t>(product->inputs())) {
      return failure(api, "PrefixMatMul: the norm has %lld weights, wanted %zu",
                     static_cast<long long>(normShape.count()), product->inputs());
    }
    if (run.residual && residualShape.count() != elements(product->outputs())) {
      return failure(api, "PrefixMatMul: the residual has %lld elements, wanted %lld",
                     static_cast<long long>(residualShape.count()),
                     static_cast<long long>(elements(product->outputs())));
    }
    Shape out;
    out.sizes[out.rank++] = rows;
    if (heads) out.sizes[out.rank++] = static_cast<int64_t>(heads);
    out.sizes[out.rank++] = static_cast<int64_t>(heads ? product->outputs() / heads : product->outputs());
    RETURN_IF_FAILED(makeOutput(api, context, 0, out, &run.y));
    if (rows == 0) return nullptr;
    run.rows = static_cast<size_t>(rows);
    run.epsilon = epsilon;
    WorkMemory memory(api, allocator);
    void* work = nullptr;
    RETURN_IF_FAILED(memory.allocate(product->workBytes(run.rows), &work));
    ThreadedRun threads;
    product->run(run, work, threadsOf(api, context, &threads));
    return nullptr;
  }

  static const Routines* routines;

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cpuOperator<PrefixMatMul>();
    op.getName = [](const ort::CustomOp*) -> const char* { return "PrefixMatMul"; };
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return firstChunk + 1; };
    op.getInputType = [](const ort::CustomOp*, size_t index) {
      return index == rowsUpTo ? ort::int64 : index < firstChunk ? ort::float32 : ort::anyType;
    };
    op.getInputPresence = [](const ort::CustomOp*, size_t index) {
      return index == x ? ort::required : index < firstChunk ? ort::optional : ort::variadic;
    };
    op.getVariadicInputMinimum = [](const ort::CustomOp*) { return 2; };
    return op;
  }
};

const Routines* PrefixMatMul::routines = nullptr;

constexpr ort::CustomOp description = PrefixMatMul::describe();

}  // namespace

const ort::CustomOp* prefixMatMul(const Routines& routines) {
  PrefixMatMul::routines = &routines;
  return &description;
}

}  // namespace espalier

#include "likeliest.h"

#include <memory>

#include "cuda_operator.h"
#include "operators.h"

namespace espalier::cuda {
namespace {

struct Likeliest {
  explicit Likeliest(ort::Api api) : api(api) {}
  ~Likeliest() { release(scratch); }
  Likeliest(const Likeliest&) = delete;
  Likeliest& operator=(const Likeliest&) = delete;

  // Rows whose ranks there is room for; more are taken so many at a time.
  static constexpr int64_t mostRows = 64;

  ort::Api api;
  const Function* function = nullptr;
  void* scratch = nullptr;

  ort::Status* prepare(const ort::KernelInfo*) {
    constexpr size_t bytes = mostRows * (sizeof(uint64_t) + sizeof(uint32_t));
    const std::unique_ptr<uint8_t[]> zeros(new (std::nothrow) uint8_t[bytes]());
    if (!zeros) return failure(api, "Likeliest: out of memory");
    RETURN_IF_DRIVER_FAILED(upload(zeros.get(), bytes, &scratch));
    RETURN_IF_DRIVER_FAILED(findFunction("pickLikeliest", 0, &function));
    return nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    LikeliestParameters parameters{};
    Shape shape;
    RETURN_IF_FAILED(readInput(api, context, 0, &parameters.logits, &shape));
    if (shape.rank != 2 || shape.sizes[1] < 1) {
      return failure(api, "Likeliest: logits of %zu dimensions, wanted rows of some", shape.rank);
    }
    const int64_t rows = shape.sizes[0], vocabulary = shape.sizes[1];
    Shape tokens;
    tokens.rank = 1;
    tokens.sizes[0] = rows;
    RETURN_IF_FAILED(makeOutput(api, context, 0, shape, &parameters.copy));
    RETURN_IF_FAILED(makeOutput(api, context, 1, tokens, &parameters.tokens));
    parameters.best = static_cast<uint64_t*>(scratch);
    parameters.arrived = reinterpret_cast<uint32_t*>(parameters.best + mostRows);
    parameters.vocabulary = static_cast<int>(vocabulary);
    Stream* stream = nullptr;
    RETURN_IF_FAILED(streamOf(api, context, &stream));
    for (int64_t row = 0; row < rows; row += mostRows) {
      parameters.rows = static_cast<int>(rows - row < mostRows ? rows - row : mostRows);
      RETURN_IF_DRIVER_FAILED(launch(
          {function, {static_cast<unsigned>(likeliestBlocks), static_cast<unsigned>(parameters.rows)}, 256, 0, true},
          stream, &parameters));
      parameters.logits += mostRows * vocabulary;
      parameters.copy += mostRows * vocabulary;
      parameters.tokens += mostRows;
    }
    return nullptr;
  }

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cudaOperator<Likeliest>();
    op.getName = [](const ort::CustomOp*) -> const char* { return "Likeliest"; };
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return 1; };
    op.getInputType = [](const ort::CustomOp*, size_t) { return ort::float32; };
    op.getOutputCount = [](const ort::CustomOp*) -> size_t { return 2; };
    op.getOutputType = [](const ort::CustomOp*, size_t index) { return index == 0 ? ort::float32 : ort::int64; };
    return op;
  }
};

constexpr ort::CustomOp description = Likeliest::describe();

}  // namespace

const ort::CustomOp* likeliest() { return &description; }

}  // namespace espalier::cuda

#include "cuda_operator.h"
#include "embedding.h"
#include "operators.h"

namespace espalier::cuda {
namespace {

enum Input : size_t { tokens = 0, codes = 1, scales = 2, inputCount = 3 };

struct Embed {
  explicit Embed(ort::Api api) : api(api) {}
  ~Embed() {
    release(codesOnDevice);
    release(scalesOnDevice);
  }
  Embed(const Embed&) = delete;
  Embed& operator=(const Embed&) = delete;

  ort::Api api;
  const Function* function = nullptr;
  void *codesOnDevice = nullptr, *scalesOnDevice = nullptr;
  EmbeddingParameters plan{};

  ort::Status* prepare(const ort::KernelInfo* info) {
    Shape codesShape, scalesShape;
    size_t blockSize = 0;
    RETURN_IF_FAILED(readInteger({api, info}, "block_size", &blockSize));
    RETURN_IF_FAILED(readConstant({api, info}, Input::codes, &plan.codes, &codesShape));
    RETURN_IF_FAILED(readConstant({api, info}, Input::scales, &plan.scales, &scalesShape));
    plan.vocabulary = codesShape.rank > 0 ? codesShape.sizes[0] : 0;
    if (blockSize < 2 || plan.vocabulary < 1 ||
        codesShape.count() != scalesShape.count() * static_cast<int64_t>(blockSize / 2) ||
        scalesShape.count() % plan.vocabulary != 0) {
      return failure(api, "Embed: %lld codes and %lld scales of %lld tokens in blocks of %zu",
                     static_cast<long long>(codesShape.count()), static_cast<long long>(scalesShape.count()),
                     static_cast<long long>(plan.vocabulary), blockSize);
    }
    plan.blockSize = static_cast<int>(blockSize);
    plan.width = static_cast<int>(2 * codesShape.count() / plan.vocabulary);
    const size_t codeBytes = static_cast<size_t>(codesShape.count());
    const size_t scaleBytes = static_cast<size_t>(scalesShape.count()) * sizeof(uint16_t);
    RETURN_IF_DRIVER_FAILED(upload(plan.codes, codeBytes, &codesOnDevice));
    RETURN_IF_DRIVER_FAILED(upload(plan.scales, scaleBytes, &scalesOnDevice));
    plan.codes = static_cast<const uint8_t*>(codesOnDevice);
    plan.scales = static_cast<const uint16_t*>(scalesOnDevice);
    RETURN_IF_DRIVER_FAILED(findFunction("embedRows", 0, &function));
    return nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    EmbeddingParameters parameters = plan;
    Shape shape, y;
    RETURN_IF_FAILED(readInput(api, context, Input::tokens, &parameters.tokens, &shape));
    y.rank = 2;
    y.sizes[0] = shape.count();
    y.sizes[1] = plan.width;
    RETURN_IF_FAILED(makeOutput(api, context, 0, y, &parameters.y));
    if (shape.count() == 0) return nullptr;
    Stream* stream = nullptr;
    RETURN_IF_FAILED(streamOf(api, context, &stream));
    RETURN_IF_DRIVER_FAILED(
        launch({function, {static_cast<unsigned>(shape.count())}, 256, 0, true}, stream, &parameters));
    return nullptr;
  }

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cudaOperator<Embed>();
    op.getName = [](const ort::CustomOp*) -> const char* { return "Embed"; };
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return inputCount; };
    op.getInputType = [](const ort::CustomOp*, size_t index) {
      return index == Input::tokens ? ort::int64 : index == Input::codes ? ort::uint8 : ort::float16;
    };
    // The head may be the same matrix: it takes its weights from the host, and an initializer lies in one place.
    op.getInputMemory = [](const ort::CustomOp*, size_t index) {
      return index == Input::tokens ? ort::ownMemory : ort::cpuMemory;
    };
    return op;
  }
};

constexpr ort::CustomOp description = Embed::describe();

}  // namespace

const ort::CustomOp* embed() { return &description; }

}  // namespace espalier::cuda

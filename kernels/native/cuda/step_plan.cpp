#include "step_plan.h"

#include "cuda_operator.h"
#include "operators.h"

namespace espalier::cuda {
namespace {

enum Input : size_t { rows = 0, levels = 1, lengths = 2, slots = 3, inputCount = 4 };

struct StepPlan {
  explicit StepPlan(ort::Api api) : api(api) {}

  ort::Api api;
  const Function* function = nullptr;
  size_t levelCount = 0;

  ort::Status* prepare(const ort::KernelInfo* info) {
    RETURN_IF_FAILED(readInteger({api, info}, "levels", &levelCount));
    if (levelCount == 0 || levelCount > static_cast<size_t>(maxLanes)) {
      return failure(api, "StepPlan: %zu levels, wanted 1 to %d", levelCount, maxLanes);
    }
    RETURN_IF_DRIVER_FAILED(findFunction("planStep", 0, &function));
    return nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    StepPlanParameters parameters{};
    Shape shapes[inputCount];
    RETURN_IF_FAILED(readInput(api, context, Input::rows, &parameters.rows, &shapes[rows]));
    RETURN_IF_FAILED(readInput(api, context, Input::levels, &parameters.levels, &shapes[levels]));
    RETURN_IF_FAILED(readInput(api, context, Input::lengths, &parameters.lengths, &shapes[lengths]));
    RETURN_IF_FAILED(readInput(api, context, Input::slots, &parameters.slots, &shapes[slots]));
    const int64_t lanes = shapes[rows].count();
    for (const Shape& shape : shapes) {
      if (shape.count() != lanes || lanes < 1 || lanes > maxLanes) {
        return failure(api, "StepPlan: %lld lanes beside %lld, wanted as many and at most %d",
                       static_cast<long long>(shape.count()), static_cast<long long>(lanes), maxLanes);
      }
    }
    parameters.laneCount = static_cast<int>(lanes);
    parameters.levelCount = static_cast<int>(levelCount);
    Shape lines, counts;
    lines.rank = 2;
    lines.sizes[0] = lanes;
    lines.sizes[1] = laneStride;
    counts.rank = 1;
    counts.sizes[0] = static_cast<int64_t>(levelCount);
    RETURN_IF_FAILED(makeOutput(api, context, 0, lines, &parameters.lanes));
    RETURN_IF_FAILED(makeOutput(api, context, 1, counts, &parameters.rowsUpTo));
    Stream* stream = nullptr;
    RETURN_IF_FAILED(streamOf(api, context, &stream));
    RETURN_IF_DRIVER_FAILED(launch({function, {}, static_cast<unsigned>(maxLanes)}, stream, &parameters));
    return nullptr;
  }

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cudaOperator<StepPlan>();
    op.getName = [](const ort::CustomOp*) -> const char* { return "StepPlan"; };
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return inputCount; };
    op.getInputType = [](const ort::CustomOp*, size_t index) {
      return index == Input::lengths ? ort::int32 : ort::int64;
    };
    op.getOutputCount = [](const ort::CustomOp*) -> size_t { return 2; };
    op.getOutputType = [](const ort::CustomOp*, size_t index) { return index == 0 ? ort::int32 : ort::int64; };
    return op;
  }
};

constexpr ort::CustomOp description = StepPlan::describe();

}  // namespace

const ort::CustomOp* stepPlan() { return &description; }

}  // namespace espalier::cuda

#include "selective_scan.h"

#include <cstring>

#include "lane_scan.h"
#include "operator.h"

namespace espalier {
namespace {

// Inputs before the states.
enum Input : size_t {
  packed = 0,
  laneRows = 1,
  convX = 2,
  convXBias = 3,
  convBc = 4,
  convBcBias = 5,
  aLog = 6,
  deltaBias = 7,
  skip = 8,
  norm = 9,
  firstState = 10
};

constexpr size_t statesOfLane = 3;

struct SelectiveScan {
  explicit SelectiveScan(ort::Api api) : api(api) {}
  ~SelectiveScan() {
    delete scan;
    if (allocator) ort::ReleaseAllocator::call(api, allocator);
  }
  SelectiveScan(const SelectiveScan&) = delete;
  SelectiveScan& operator=(const SelectiveScan&) = delete;

  ort::Api api;
  ort::Allocator* allocator = nullptr;
  LaneScan* scan = nullptr;

  ort::Status* prepare(const ort::KernelInfo* info) {
    ScanShape shape{};
    size_t biased = 0;
    RETURN_IF_FAILED(ort::GetAllocator::call(api, info, 0, &allocator));
    RETURN_IF_FAILED(readInteger(api, info, "heads", &shape.heads));
    RETURN_IF_FAILED(readInteger(api, info, "channels", &shape.channels));
    RETURN_IF_FAILED(readInteger(api, info, "full_channels", &shape.fullChannels));
    RETURN_IF_FAILED(readInteger(api, info, "groups", &shape.groups));
    RETURN_IF_FAILED(readInteger(api, info, "states", &shape.states));
    RETURN_IF_FAILED(readInteger(api, info, "full_states", &shape.fullStates));
    RETURN_IF_FAILED(readInteger(api, info, "taps", &shape.taps));
    RETURN_IF_FAILED(readInteger(api, info, "conv_bias", &biased));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "least_delta", &shape.leastDelta));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "greatest_delta", &shape.greatestDelta));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "epsilon", &shape.epsilon));
    if (shape.groups == 0 || shape.heads == 0 || shape.heads % shape.groups != 0 || shape.taps == 0 ||
        shape.taps > maxTaps || shape.channels == 0 || shape.channels > shape.fullChannels || shape.states == 0 ||
        shape.states > shape.fullStates) {
      return failure(
          api,
          "SelectiveScan: %zu heads of %zu of %zu channels, %zu groups of %zu of %zu states, %zu taps are no "
          "block",
          shape.heads, shape.channels, shape.fullChannels, shape.groups, shape.states, shape.fullStates, shape.taps);
    }
    const size_t channels = shape.heads * shape.fullChannels, states = 2 * shape.groups * shape.fullStates;
    ScanParameters parameters{};
    RETURN_IF_FAILED(constant(info, Input::convX, channels * shape.taps, &parameters.convX));
    RETURN_IF_FAILED(constant(info, Input::convBc, states * shape.taps, &parameters.convBc));
    if (biased) {
      RETURN_IF_FAILED(constant(info, Input::convXBias, channels, &parameters.convXBias));
      RETURN_IF_FAILED(constant(info, Input::convBcBias, states, &parameters.convBcBias));
    }
    RETURN_IF_FAILED(constant(info, Input::aLog, shape.heads, &parameters.aLog));
    RETURN_IF_FAILED(constant(info, Input::deltaBias, shape.heads, &parameters.deltaBias));
    Shape skipShape;
    RETURN_IF_FAILED(readConstant(api, info, Input::skip, &parameters.skip, &skipShape));
    shape.skipPerChannel = skipShape.count() != static_cast<int64_t>(shape.heads);
    RETURN_IF_FAILED(constant(info, Input::skip, shape.skipPerChannel ? channels : shape.heads, &parameters.skip));
    RETURN_IF_FAILED(constant(info, Input::norm, channels, &parameters.norm));
    scan = LaneScan::create(*routines, shape, parameters);
    return scan ? nullptr : failure(api, "SelectiveScan: not enough memory to pack the parameters");
  }

  ort::Status* constant(const ort::KernelInfo* info, size_t index, size_t count, const float** data) const {
    Shape shape;
    RETURN_IF_FAILED(readConstant(api, info, index, data, &shape));
    if (shape.count() == static_cast<int64_t>(count)) return nullptr;
    return failure(api, "SelectiveScan: input %zu has %lld elements, wanted %zu", index,
                   static_cast<long long>(shape.count()), count);
  }

  ort::Status* compute(ort::KernelContext* context) const {
    const ScanShape& shape = scan->shape();
    ScanRun run{};
    Shape packedShape, rowsShape;
    const int64_t* rowsOfLanes = nullptr;
    RETURN_IF_FAILED(readInput(api, context, Input::packed, &run.packed, &packedShape));
    RETURN_IF_FAILED(readInput(api, context, Input::laneRows, &rowsOfLanes, &rowsShape));
    const int64_t rows = packedShape.rank > 0 ? packedShape.sizes[0] : 0;
    if (packedShape.rank < 1 || packedShape.count() != rows * static_cast<int64_t>(shape.columns())) {
      return failure(api, "SelectiveScan: %lld elements in %lld rows, wanted %zu a row",
                     static_cast<long long>(packedShape.count()), static_cast<long long>(rows), shape.columns());
    }
    const int64_t laneCount = rowsShape.count();
    if (laneCount > static_cast<int64_t>(maxScanLanes)) {
      return failure(api, "SelectiveScan: %lld lanes, wanted at most %zu", static_cast<long long>(laneCount),
                     maxScanLanes);
    }
    int64_t rowsLeft = rows;
    for (int64_t i = 0; i < laneCount; i++) {
      if (rowsOfLanes[i] < 0 || rowsOfLanes[i] > rowsLeft) {
        return failure(api, "SelectiveScan: lane %lld has %lld rows of %lld that are left", static_cast<long long>(i),
                       static_cast<long long>(rowsOfLanes[i]), static_cast<long long>(rowsLeft));
      }
      rowsLeft -= rowsOfLanes[i];
    }
    if (rowsLeft != 0) {
      return failure(api, "SelectiveScan: %lld rows belong to no lane", static_cast<long long>(rowsLeft));
    }
    Shape out;
    out.rank = 3;
    out.sizes[0] = rows;
    out.sizes[1] = static_cast<int64_t>(shape.heads);
    out.sizes[2] = static_cast<int64_t>(shape.channels);
    RETURN_IF_FAILED(makeOutput(api, context, 0, out, &run.y));
    if (rows == 0) return nullptr;

    ScanLane lanes[maxScanLanes];
    for (int64_t i = 0; i < laneCount; i++) {
      if (rowsOfLanes[i] == 0) continue;
      ScanLane& lane = lanes[run.laneCount++];
      lane.rows = static_cast<size_t>(rowsOfLanes[i]);
      RETURN_IF_FAILED(takeStates(context, static_cast<size_t>(i), &lane));
    }
    run.rows = static_cast<size_t>(rows);
    run.lanes = lanes;
    WorkMemory memory(api, allocator);
    void* work = nullptr;
    RETURN_IF_FAILED(memory.allocate(scan->workBytes(run.rows), &work));
    ThreadedRun threads;
    scan->run(run, work, threadsOf(api, context, &threads));
    return nullptr;
  }

  // The states of a lane, at their outputs.
  ort::Status* takeStates(ort::KernelContext* context, size_t index, ScanLane* lane) const {
    const ScanShape& shape = scan->shape();
    float** const places[statesOfLane] = {&lane->convX, &lane->convBc, &lane->state};
    const float* past[statesOfLane];
    Shape shapes[statesOfLane];
    for (size_t i = 0; i < statesOfLane; i++) {
      RETURN_IF_FAILED(readInput(api, context, firstState + statesOfLane * index + i, &past[i], &shapes[i]));
    }
    const Shape& state = shapes[2];
    const auto size = [&](size_t axis) { return state.rank == 4 ? state.sizes[axis] : -1; };
    const int64_t heads = static_cast<int64_t>(shape.heads), groups = static_cast<int64_t>(shape.groups);
    const int64_t before = static_cast<int64_t>(shape.taps) - 1;
    if (size(0) != 1 || size(1) != heads || size(2) < 1 || size(2) > static_cast<int64_t>(shape.states) ||
        size(3) < 1 || size(3) > static_cast<int64_t>(shape.channels) ||
        shapes[0].count() != before * heads * size(3) || shapes[1].count() != before * 2 * groups * size(2)) {
      return failure(api,
                     "SelectiveScan: lane %zu has a state of [%lld, %lld, %lld, %lld] behind %lld and %lld inputs, "
                     "wanted [1, %zu, at most %zu, at most %zu] and %lld of each channel",
                     index, static_cast<long long>(size(0)), static_cast<long long>(size(1)),
                     static_cast<long long>(size(2)), static_cast<long long>(size(3)),
                     static_cast<long long>(shapes[0].count()), static_cast<long long>(shapes[1].count()), shape.heads,
                     shape.states, shape.channels, static_cast<long long>(before));
    }
    lane->states = static_cast<size_t>(size(2));
    lane->channels = static_cast<size_t>(size(3));
    for (size_t i = 0; i < statesOfLane; i++) {
      RETURN_IF_FAILED(makeOutput(api, context, 1 + statesOfLane * index + i, shapes[i], places[i]));
      if (*places[i] != past[i]) {
        std::memcpy(*places[i], past[i], static_cast<size_t>(shapes[i].count()) * sizeof(float));
      }
    }
    return nullptr;
  }

  static const Routines* routines;

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cpuOperator<SelectiveScan>();
    op.getName = [](const ort::CustomOp*) -> const char* { return "SelectiveScan"; };
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return firstState + 1; };
    op.getInputType = [](const ort::CustomOp*, size_t index) {
      return index == Input::laneRows ? ort::int64 : ort::float32;
    };
    op.getInputPresence = [](const ort::CustomOp*, size_t index) {
      return index == firstState                                       ? ort::variadic
             : index == Input::convXBias || index == Input::convBcBias ? ort::optional
                                                                       : ort::required;
    };
    op.getVariadicInputMinimum = [](const ort::CustomOp*) -> int { return statesOfLane; };
    op.getVariadicInputSameType = [](const ort::CustomOp*) { return 1; };
    op.getOutputCount = [](const ort::CustomOp*) -> size_t { return 2; };
    op.getOutputPresence = [](const ort::CustomOp*, size_t index) {
      return index == 0 ? ort::required : ort::variadic;
    };
    op.getVariadicOutputMinimum = [](const ort::CustomOp*) -> int { return statesOfLane; };
    return op;
  }
};

const Routines* SelectiveScan::routines = nullptr;

constexpr ort::CustomOp description = SelectiveScan::describe();

}  // namespace

const ort::CustomOp* selectiveScan(const Routines& routines) {
  SelectiveScan::routines = &routines;
  return &description;
}

}  // namespace espalier

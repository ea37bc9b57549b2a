#include "selective_scan.h"

#include "lane_arrays.h"
#include "lane_scan.h"
#include "lanes.h"
#include "operator.h"

namespace espalier {
namespace {

// Inputs before the lanes' arrays.
enum Input : size_t {
  packed = 0,
  laneRows = 1,
  laneLevels = 2,
  places = 3,
  convX = 4,
  convXBias = 5,
  convBc = 6,
  convBcBias = 7,
  aLog = 8,
  deltaBias = 9,
  skip = 10,
  norm = 11,
  firstArray = 12
};

constexpr size_t cachesOfLane = 3;

// A run, with its lanes.
struct BoundScan {
  ScanRun run;
  ScanLane lanes[maxLanes];
};

class SelectiveScan final : public OperatorOf<BoundScan> {
 public:
  explicit SelectiveScan(const Routines& routines) : routines_(routines) {}
  ~SelectiveScan() override { delete scan_; }
  SelectiveScan(const SelectiveScan&) = delete;
  SelectiveScan& operator=(const SelectiveScan&) = delete;

  ort::Status* prepare(const OperatorInfo& info) override {
    const ort::Api api = info.api;
    ScanShape shape{};
    size_t biased = 0;
    RETURN_IF_FAILED(readInteger(info, "heads", &shape.heads));
    RETURN_IF_FAILED(readInteger(info, "channels", &shape.channels));
    RETURN_IF_FAILED(readInteger(info, "full_channels", &shape.fullChannels));
    RETURN_IF_FAILED(readInteger(info, "groups", &shape.groups));
    RETURN_IF_FAILED(readInteger(info, "states", &shape.states));
    RETURN_IF_FAILED(readInteger(info, "full_states", &shape.fullStates));
    RETURN_IF_FAILED(readInteger(info, "taps", &shape.taps));
    RETURN_IF_FAILED(readInteger(info, "conv_bias", &biased));
    RETURN_IF_FAILED(readFloat(info, "least_delta", &shape.leastDelta));
    RETURN_IF_FAILED(readFloat(info, "greatest_delta", &shape.greatestDelta));
    RETURN_IF_FAILED(readFloat(info, "epsilon", &shape.epsilon));
    if (shape.groups == 0 || shape.heads == 0 || shape.heads % shape.groups != 0 || shape.taps == 0 ||
        shape.taps > maxTaps || shape.channels == 0 || shape.channels > shape.fullChannels || shape.states == 0 ||
        shape.states > shape.fullStates) {
      return failure(
          api,
          "SelectiveScan: %zu heads of %zu of %zu channels, %zu groups of %zu of %zu states, %zu taps are no "
          "block",
          shape.heads, shape.channels, shape.fullChannels, shape.groups, shape.states, shape.fullStates, shape.taps);
    }
    RETURN_IF_FAILED(channelWidths_.read(info, "SelectiveScan", "channel_widths", shape.channels));
    RETURN_IF_FAILED(stateWidths_.read(info, "SelectiveScan", "state_widths", shape.states));
    RETURN_IF_FAILED(readInteger(info, "first_cache", &firstCache_));
    if (channelWidths_.levels != stateWidths_.levels) {
      return failure(api, "SelectiveScan: channels of %zu levels, states of %zu", channelWidths_.levels,
                     stateWidths_.levels);
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
    RETURN_IF_FAILED(readConstant(info, Input::skip, &parameters.skip, &skipShape));
    shape.skipPerChannel = skipShape.count() != static_cast<int64_t>(shape.heads);
    RETURN_IF_FAILED(constant(info, Input::skip, shape.skipPerChannel ? channels : shape.heads, &parameters.skip));
    RETURN_IF_FAILED(constant(info, Input::norm, channels, &parameters.norm));
    scan_ = LaneScan::create(routines_, shape, parameters);
    return scan_ ? nullptr : failure(api, "SelectiveScan: not enough memory to pack the parameters");
  }

  size_t columns() const override { return scan_->shape().heads * scan_->shape().channels; }
  size_t loops() const override { return LaneScan::loops; }

 protected:
  ort::Status* bind(Operands& operands, BoundScan& bound) const override {
    const ort::Api api = operands.api;
    const ScanShape& shape = scan_->shape();
    ScanRun& run = bound.run = {};
    Shape packedShape, rowsShape, levelsShape;
    const int64_t *rowsOfLanes = nullptr, *levelsOfLanes = nullptr;
    RETURN_IF_FAILED(operands.input(Input::packed, &run.packed, &packedShape));
    RETURN_IF_FAILED(operands.input(Input::laneRows, &rowsOfLanes, &rowsShape));
    RETURN_IF_FAILED(operands.input(Input::laneLevels, &levelsOfLanes, &levelsShape));
    const int64_t rows = packedShape.rank > 0 ? packedShape.sizes[0] : 0;
    if (packedShape.rank < 1 || packedShape.count() != rows * static_cast<int64_t>(shape.columns())) {
      return failure(api, "SelectiveScan: %lld elements in %lld rows, wanted %zu a row",
                     static_cast<long long>(packedShape.count()), static_cast<long long>(rows), shape.columns());
    }
    const int64_t laneCount = rowsShape.count();
    if (laneCount > static_cast<int64_t>(maxLanes) || levelsShape.count() != laneCount) {
      return failure(api, "SelectiveScan: %lld lanes with %lld levels, wanted as many and at most %zu",
                     static_cast<long long>(laneCount), static_cast<long long>(levelsShape.count()), maxLanes);
    }
    int64_t rowsLeft = rows;
    for (int64_t i = 0; i < laneCount; i++) {
      if (rowsOfLanes[i] < 0 || rowsOfLanes[i] > rowsLeft) {
        return failure(api, "SelectiveScan: lane %lld has %lld rows of %lld that are left", static_cast<long long>(i),
                       static_cast<long long>(rowsOfLanes[i]), static_cast<long long>(rowsLeft));
      }
      if (levelsOfLanes[i] < 0 || levelsOfLanes[i] >= static_cast<int64_t>(channelWidths_.levels)) {
        return failure(api, "SelectiveScan: lane %lld has level %lld of %zu", static_cast<long long>(i),
                       static_cast<long long>(levelsOfLanes[i]), channelWidths_.levels);
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
    RETURN_IF_FAILED(operands.output(out, &run.y));
    if (rows == 0) return nullptr;

    LaneArrays arrays(operands, "SelectiveScan");
    RETURN_IF_FAILED(arrays.open(Input::places, firstCache_, cachesOfLane));
    for (int64_t i = 0; i < laneCount; i++) {
      if (rowsOfLanes[i] == 0) continue;
      ScanLane& lane = bound.lanes[run.laneCount++];
      lane.rows = static_cast<size_t>(rowsOfLanes[i]);
      lane.channels = channelWidths_.widths[levelsOfLanes[i]];
      lane.states = stateWidths_.widths[levelsOfLanes[i]];
      const size_t before = shape.taps - 1;
      const size_t wanted[cachesOfLane] = {before * shape.heads * lane.channels,
                                           before * 2 * shape.groups * lane.states,
                                           shape.heads * lane.states * lane.channels};
      for (size_t cache = 0; cache < cachesOfLane; cache++) {
        if (arrays.floats(cache) < wanted[cache]) {
          return failure(api, "SelectiveScan: the place of state %zu has %zu floats, wanted %zu", cache,
                         arrays.floats(cache), wanted[cache]);
        }
      }
      float* caches[cachesOfLane];
      RETURN_IF_FAILED(arrays.take(firstArray + static_cast<size_t>(i), caches));
      lane.convX = caches[0];
      lane.convBc = caches[1];
      lane.state = caches[2];
    }
    run.rows = static_cast<size_t>(rows);
    run.lanes = bound.lanes;
    return nullptr;
  }

  size_t workBytes(const BoundScan& bound) const override { return scan_->workBytes(bound.run.rows); }

  void compute(const BoundScan& bound, void* work, const Parallel& parallel) const override {
    scan_->run(bound.run, work, parallel);
  }

 private:
  static ort::Status* constant(const OperatorInfo& info, size_t index, size_t count, const float** data) {
    Shape shape;
    RETURN_IF_FAILED(readConstant(info, index, data, &shape));
    if (shape.count() == static_cast<int64_t>(count)) return nullptr;
    return failure(info.api, "SelectiveScan: input %zu has %lld elements, wanted %zu", index,
                   static_cast<long long>(shape.count()), count);
  }

  const Routines& routines_;
  LaneScan* scan_ = nullptr;
  LevelWidths channelWidths_, stateWidths_;
  size_t firstCache_ = 0;
};

CpuOperator* create(const Routines& routines) { return new (std::nothrow) SelectiveScan(routines); }

void describeInputs(ort::CustomOp* op) {
  op->getInputCount = [](const ort::CustomOp*) -> size_t { return firstArray + 1; };
  op->getInputType = [](const ort::CustomOp*, size_t index) {
    return index == Input::laneRows || index == Input::laneLevels || index == Input::places ? ort::int64 : ort::float32;
  };
  op->getInputPresence = [](const ort::CustomOp*, size_t index) {
    return index == firstArray                                       ? ort::variadic
           : index == Input::convXBias || index == Input::convBcBias ? ort::optional
                                                                     : ort::required;
  };
  op->getVariadicInputSameType = [](const ort::CustomOp*) { return 1; };
}

}  // namespace

const OperatorKind selectiveScan = {"SelectiveScan", create, describeInputs};

}  // namespace espalier

#include "cuda_operator.h"
#include "lane_scan.h"
#include "operators.h"

namespace espalier::cuda {
namespace {

enum Input : size_t {
  packed = 0,
  lanes = 1,
  convX = 2,
  convXBias = 3,
  convBc = 4,
  convBcBias = 5,
  aLog = 6,
  deltaBias = 7,
  skip = 8,
  norm = 9,
  convXState = 10,
  convBcState = 11,
  state = 12,
  inputCount = 13
};

constexpr size_t kernelCount = sizeof(scanKernels) / sizeof(*scanKernels);

struct SelectiveScan {
  explicit SelectiveScan(ort::Api api) : api(api) {}
  ~SelectiveScan() {
    if (allocator) ort::ReleaseAllocator::call(api, allocator);
  }
  SelectiveScan(const SelectiveScan&) = delete;
  SelectiveScan& operator=(const SelectiveScan&) = delete;

  ort::Api api;
  ort::Allocator* allocator = nullptr;
  const Function* functions[kernelCount] = {};
  ScanParameters shape{};

  ort::Status* prepare(const ort::KernelInfo* info) {
    size_t biased = 0;
    RETURN_IF_FAILED(ort::GetAllocator::call(api, info, 0, &allocator));
    struct {
      const char* name;
      int* out;
    } const sizes[] = {{"heads", &shape.heads},   {"channels", &shape.channels}, {"full_channels", &shape.fullChannels},
                       {"groups", &shape.groups}, {"states", &shape.states},     {"full_states", &shape.fullStates},
                       {"taps", &shape.taps}};
    for (const auto& size : sizes) {
      size_t value = 0;
      RETURN_IF_FAILED(readInteger({api, info}, size.name, &value));
      if (value > static_cast<size_t>(mostOfAnything)) {
        return failure(api, "SelectiveScan: %zu %s, wanted %d at most", value, size.name, mostOfAnything);
      }
      *size.out = static_cast<int>(value);
    }
    RETURN_IF_FAILED(readInteger({api, info}, "conv_bias", &biased));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "least_delta", &shape.leastDelta));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "greatest_delta", &shape.greatestDelta));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "epsilon", &shape.epsilon));
    if (shape.groups == 0 || shape.heads == 0 || shape.heads % shape.groups != 0 || shape.taps == 0 ||
        shape.taps > maxTaps || shape.channels == 0 || shape.channels > shape.fullChannels || shape.states == 0 ||
        shape.states > shape.fullStates || shape.states > maxStates ||
        shape.heads / shape.groups * shape.channels > maxGroupChannels) {
      return failure(
          api,
          "SelectiveScan: %d heads of %d of %d channels, %d groups of %d of %d states, %d taps are no block: "
          "there are up to %d channels in a group, %d states and %d taps",
          shape.heads, shape.channels, shape.fullChannels, shape.groups, shape.states, shape.fullStates, shape.taps,
          maxGroupChannels, maxStates, maxTaps);
    }
    RETURN_IF_FAILED(takeLevels(info, "widths", shape.channels, shape.widths));
    RETURN_IF_FAILED(takeLevels(info, "state_widths", shape.states, shape.stateWidths));
    const int64_t channels = int64_t{shape.heads} * shape.fullChannels,
                  states = int64_t{2} * shape.groups * shape.fullStates;
    RETURN_IF_FAILED(constant(info, Input::convX, channels * shape.taps, &shape.convX));
    RETURN_IF_FAILED(constant(info, Input::convBc, states * shape.taps, &shape.convBc));
    if (biased) {
      RETURN_IF_FAILED(constant(info, Input::convXBias, channels, &shape.convXBias));
      RETURN_IF_FAILED(constant(info, Input::convBcBias, states, &shape.convBcBias));
    }
    RETURN_IF_FAILED(constant(info, Input::aLog, shape.heads, &shape.aLog));
    RETURN_IF_FAILED(constant(info, Input::deltaBias, shape.heads, &shape.deltaBias));
    Shape skipShape;
    RETURN_IF_FAILED(readConstant({api, info}, Input::skip, &shape.skip, &skipShape));
    shape.skipPerChannel = skipShape.count() != shape.heads;
    RETURN_IF_FAILED(constant(info, Input::skip, shape.skipPerChannel ? channels : shape.heads, &shape.skip));
    RETURN_IF_FAILED(constant(info, Input::norm, channels, &shape.norm));
    for (size_t i = 0; i < kernelCount; i++) {
      RETURN_IF_DRIVER_FAILED(findFunction(scanKernels[i].name, scanKernels[i].sharedBytes, &functions[i]));
    }
    return nullptr;
  }

  // What every level keeps of `most`. Levels that the attribute lacks keep nothing, and no lane has them.
  ort::Status* takeLevels(const ort::KernelInfo* info, const char* name, int most, int out[maxLevels]) const {
    int64_t widths[maxLevels] = {};
    size_t levels = 0;
    RETURN_IF_FAILED(readIntegers({api, info}, name, widths, maxLevels, &levels));
    for (size_t i = 0; i < levels; i++) {
      if (widths[i] < 1 || widths[i] > most) {
        return failure(api, "SelectiveScan: level %zu keeps %lld of %d in %s", i, static_cast<long long>(widths[i]),
                       most, name);
      }
      out[i] = static_cast<int>(widths[i]);
    }
    return levels > 0 ? nullptr : failure(api, "SelectiveScan: no level has %s", name);
  }

  ort::Status* constant(const ort::KernelInfo* info, size_t index, int64_t count, const float** data) const {
    Shape found;
    RETURN_IF_FAILED(readConstant({api, info}, index, data, &found));
    if (found.count() == count) return nullptr;
    return failure(api, "SelectiveScan: input %zu has %lld elements, wanted %lld", index,
                   static_cast<long long>(found.count()), static_cast<long long>(count));
  }

  ort::Status* compute(ort::KernelContext* context) const {
    ScanParameters p = shape;
    Shape packedShape, lanesShape;
    RETURN_IF_FAILED(readInput(api, context, Input::packed, &p.packed, &packedShape));
    const int32_t* lines = nullptr;
    RETURN_IF_FAILED(readInput(api, context, Input::lanes, &lines, &lanesShape));
    p.lanes = reinterpret_cast<const LaneLine*>(lines);
    const int64_t columns = int64_t{2} * p.heads * p.channels + int64_t{2} * p.groups * p.states + p.heads;
    const int64_t rows = packedShape.rank > 0 ? packedShape.sizes[0] : 0;
    if (packedShape.count() != rows * columns || rows > maxScanRows) {
      return failure(api, "SelectiveScan: %lld elements in %lld rows, wanted %lld a row and %d rows at most",
                     static_cast<long long>(packedShape.count()), static_cast<long long>(rows),
                     static_cast<long long>(columns), maxScanRows);
    }
    const int64_t laneCount = lanesShape.rank == 2 ? lanesShape.sizes[0] : 0;
    if (laneCount < 1 || laneCount > maxLanes || lanesShape.sizes[1] != laneStride) {
      return failure(api, "SelectiveScan: %lld integers of lanes, wanted [1 to %d, %d]",
                     static_cast<long long>(lanesShape.count()), maxLanes, laneStride);
    }
    p.rows = static_cast<int>(rows);
    p.laneCount = static_cast<int>(laneCount);
    const int64_t before = p.taps - 1, H = p.heads, P = p.channels, G = p.groups, N = p.states;
    RETURN_IF_FAILED(takePool(context, Input::convXState, before * H * P, &p.convXState, &p));
    RETURN_IF_FAILED(takePool(context, Input::convBcState, before * 2 * G * N, &p.convBcState, &p));
    RETURN_IF_FAILED(takePool(context, Input::state, H * N * P, &p.state, &p));
    Shape out;
    out.rank = 3;
    out.sizes[0] = rows;
    out.sizes[1] = H;
    out.sizes[2] = P;
    RETURN_IF_FAILED(makeOutput(api, context, 0, out, &p.y));
    if (rows == 0) return nullptr;

    WorkMemory memory(api, allocator);
    if (const size_t bytes = scanWorkBytes(p)) {
      void* work = nullptr;
      RETURN_IF_FAILED(memory.allocate(bytes, &work));
      p.work = static_cast<float*>(work);
    }
    Stream* stream = nullptr;
    RETURN_IF_FAILED(streamOf(api, context, &stream));
    ScanLaunch launches[3];
    const size_t count = scanLaunches(p, launches);
    for (size_t i = 0; i < count; i++) {
      const ScanLaunch& next = launches[i];
      RETURN_IF_DRIVER_FAILED(
          launch({functions[next.kernel], next.grid, next.threads, next.sharedBytes, true}, stream, &p));
    }
    return nullptr;
  }

  // A state of all slots, `each` floats a slot, which is written where it is read.
  ort::Status* takePool(ort::KernelContext* context, size_t index, int64_t each, float** pool,
                        ScanParameters* p) const {
    const float* past = nullptr;
    Shape found;
    RETURN_IF_FAILED(readInput(api, context, index, &past, &found));
    const int64_t slots = found.rank > 0 ? found.sizes[0] : 0;
    const bool first = index == Input::convXState;
    if (slots < 1 || slots > INT32_MAX || found.count() != slots * each || (!first && slots != p->slots)) {
      return failure(
          api, "SelectiveScan: input %zu has %lld elements in %lld slots, wanted %lld a slot, and slots alike", index,
          static_cast<long long>(found.count()), static_cast<long long>(slots), static_cast<long long>(each));
    }
    RETURN_IF_FAILED(makeOutput(api, context, index - Input::convXState + 1, found, pool));
    if (*pool != past && found.count() > 0) {
      return failure(api, "SelectiveScan: input %zu must be bound to its output: it is written in place", index);
    }
    p->slots = static_cast<int>(slots);
    return nullptr;
  }

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cudaOperator<SelectiveScan>();
    op.getName = [](const ort::CustomOp*) -> const char* { return "SelectiveScan"; };
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return inputCount; };
    op.getInputType = [](const ort::CustomOp*, size_t index) {
      return index == Input::lanes ? ort::int32 : ort::float32;
    };
    op.getInputPresence = [](const ort::CustomOp*, size_t index) {
      return index == Input::convXBias || index == Input::convBcBias ? ort::optional : ort::required;
    };
    op.getOutputCount = [](const ort::CustomOp*) -> size_t { return 4; };
    return op;
  }

  static constexpr int mostOfAnything = 1 << 20;
};

constexpr ort::CustomOp description = SelectiveScan::describe();

}  // namespace

const ort::CustomOp* selectiveScan() { return &description; }

}  // namespace espalier::cuda

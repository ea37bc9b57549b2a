#include "lane_scan.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "rounding.h"

namespace espalier {
namespace {

// Elements of the state that a task works on at least: a few microseconds, and few enough that threads end together.
constexpr size_t taskElements = size_t{1} << 13;

// Floats below which normalizing is not worth another thread.
constexpr size_t serialElements = size_t{1} << 15;

// Rows of a head that pass through all its stages before the next ones: what they touch stays in the cache.
constexpr size_t stageRows = 32;

// Rows whose B and C are one task.
constexpr size_t stateRows = 16;

}  // namespace

// The last `taps` rows of a channel's input up to one row: from the state where they lie before the run.
struct LaneScan::Window {
  const float* state;  // [taps - 1][stateStride]
  size_t stateStride;
  const float* rows;  // [rows][rowStride]
  size_t rowStride;
  size_t taps;

  const float* at(size_t row, size_t tap) const {
    const size_t place = row + tap;  // counted from the oldest row of the state
    return place < taps - 1 ? state + place * stateStride : rows + (place - (taps - 1)) * rowStride;
  }

  void ending(size_t row, const float** inputs) const {
    for (size_t tap = 0; tap < taps; tap++) inputs[tap] = at(row, tap);
  }

  // Makes the state that of the next run. A row moves to an earlier place, so none is overwritten before it is read.
  void advance(size_t count, size_t width, float* to) const {
    for (size_t tap = 0; tap + 1 < taps; tap++) {
      std::memmove(to + tap * stateStride, at(count, tap), width * sizeof(float));
    }
  }
};

struct LaneScan::Work {
  float* bc;      // [rows][2G][N'] behind convolution and SiLU, a row every 2 G N floats
  float* deltas;  // [H][rows]
  float* decays;  // [H][rows]: what a row leaves of the state
};

// A lane, and where its rows and its tasks begin.
struct LaneScan::PlacedLane {
  const ScanLane* lane;
  size_t firstRow;
  size_t firstTask;
};

LaneScan* LaneScan::create(const Routines& routines, const ScanShape& shape, const ScanParameters& parameters) {
  auto* scan = new (std::nothrow) LaneScan(routines, shape);
  if (scan && scan->pack(parameters)) return scan;
  delete scan;
  return nullptr;
}

LaneScan::~LaneScan() { std::free(memory_); }

bool LaneScan::pack(const ScanParameters& from) {
  const size_t heads = shape_.heads, channels = heads * shape_.channels, states = 2 * shape_.groups * shape_.states;
  const size_t taps = shape_.taps;
  const size_t count = (taps + 3) * channels + (taps + 1) * states + 2 * heads;
  memory_ = static_cast<float*>(std::calloc(count, sizeof(float)));
  if (!memory_) return false;
  float* next = memory_;
  const auto take = [&next](size_t floats) {
    float* place = next;
    next += floats;
    return place;
  };
  // [heads][full][each] to [heads][each][kept], or to [heads][kept] where there is one each.
  const auto packHeads = [](const float* source, size_t groups, size_t full, size_t kept, size_t each, float* to) {
    for (size_t g = 0; g < groups; g++) {
      for (size_t i = 0; i < kept; i++) {
        for (size_t j = 0; j < each; j++) to[(g * each + j) * kept + i] = source[(g * full + i) * each + j];
      }
    }
  };
  const size_t P = shape_.channels, fullP = shape_.fullChannels, N = shape_.states, fullN = shape_.fullStates;
  packHeads(from.convX, heads, fullP, P, taps, convX_ = take(taps * channels));
  packHeads(from.convBc, 2 * shape_.groups, fullN, N, taps, convBc_ = take(taps * states));
  if (from.convXBias) packHeads(from.convXBias, heads, fullP, P, 1, convXBias_ = take(channels));
  if (from.convBcBias) packHeads(from.convBcBias, 2 * shape_.groups, fullN, N, 1, convBcBias_ = take(states));
  a_ = take(heads);
  deltaBias_ = take(heads);
  for (size_t head = 0; head < heads; head++) a_[head] = -std::exp(from.aLog[head]);
  std::memcpy(deltaBias_, from.deltaBias, heads * sizeof(float));
  skip_ = take(channels);
  if (shape_.skipPerChannel) {
    packHeads(from.skip, heads, fullP, P, 1, skip_);
  } else {
    for (size_t i = 0; i < channels; i++) skip_[i] = from.skip[i / P];
  }
  packHeads(from.norm, heads, fullP, P, 1, norm_ = take(channels));
  // The mean is over the full width: what a mean over the packed one has too much is taken from epsilon and weight.
  const double kept = static_cast<double>(P) / static_cast<double>(fullP);
  epsilon_ = static_cast<float>(static_cast<double>(shape_.epsilon) / kept);
  for (size_t i = 0; i < channels && P != fullP; i++) norm_[i] = static_cast<float>(norm_[i] / std::sqrt(kept));
  return true;
}

size_t LaneScan::workBytes(size_t rows) const {
  const size_t states = 2 * shape_.groups * shape_.states;
  return roundUp(rows * states * sizeof(float), alignment) + 2 * rows * shape_.heads * sizeof(float);
}

size_t LaneScan::headsPerTask(const ScanLane& lane) const {
  const size_t elements = lane.rows * lane.states * lane.channels;
  return least(shape_.heads, ceilDivide(taskElements, elements));
}

void LaneScan::run(const ScanRun& run, void* memory, const Parallel& parallel) const {
  if (run.rows == 0) return;
  Work work{};
  work.bc = static_cast<float*>(memory);
  const size_t states = 2 * shape_.groups * shape_.states;
  work.deltas = work.bc + roundUp(run.rows * states * sizeof(float), alignment) / sizeof(float);
  work.decays = work.deltas + run.rows * shape_.heads;

  PlacedLane placedLanes[maxLanes];
  size_t rows = 0, tasks = 0;
  for (size_t i = 0; i < run.laneCount; i++) {
    placedLanes[i] = {run.lanes + i, rows, tasks};
    rows += run.lanes[i].rows;
    const size_t heads = headsPerTask(run.lanes[i]);
    tasks += ceilDivide(shape_.heads, heads);
  }
  // The lane that row or task `index` belongs to.
  const auto find = [&](size_t PlacedLane::*first, size_t index) -> const PlacedLane& {
    size_t i = run.laneCount - 1;
    while (placedLanes[i].*first > index) i--;
    return placedLanes[i];
  };

  parallel.forEach(ceilDivide(run.rows, stateRows), [&](size_t block) {
    for (size_t row = block * stateRows; row < least((block + 1) * stateRows, run.rows); row++) {
      const PlacedLane& placed = find(&PlacedLane::firstRow, row);
      convolveStates(run, work, placed, row - placed.firstRow);
    }
  });
  parallel.forEach(tasks, [&](size_t task) {
    const PlacedLane& placed = find(&PlacedLane::firstTask, task);
    const size_t heads = headsPerTask(*placed.lane), first = (task - placed.firstTask) * heads;
    for (size_t group = 0; first == 0 && group < 2 * shape_.groups; group++) {
      const ScanLane& lane = *placed.lane;
      windowOfGroup(run, placed, group).advance(lane.rows, lane.states, lane.convBc + group * lane.states);
    }
    for (size_t head = first; head < least(first + heads, shape_.heads); head++) mixHead(run, work, placed, head);
  });
  const size_t columns = shape_.heads * shape_.channels, group = columns / shape_.groups;
  const auto normalize = [&](size_t row) {
    for (size_t start = 0; start < columns; start += group) {
      float* values = run.y + row * columns + start;
      routines_.normalizeRow(values, norm_ + start, group, epsilon_, values);
    }
  };
  if (run.rows * columns < serialElements) {
    parallel.once([&] {
      for (size_t row = 0; row < run.rows; row++) normalize(row);
    });
  } else {
    parallel.forEach(run.rows, [&](size_t row) { normalize(row); });
  }
}

// The inputs of the convolution of one head's x.
LaneScan::Window LaneScan::windowOfHead(const ScanRun& run, const PlacedLane& placed, size_t head) const {
  const ScanLane& lane = *placed.lane;
  const float* rows = run.packed + placed.firstRow * shape_.columns() + (shape_.heads + head) * shape_.channels;
  return {lane.convX + head * lane.channels, shape_.heads * lane.channels, rows, shape_.columns(), shape_.taps};
}

// The inputs of the convolution of one group's B (the first G) or C.
LaneScan::Window LaneScan::windowOfGroup(const ScanRun& run, const PlacedLane& placed, size_t group) const {
  const ScanLane& lane = *placed.lane;
  const float* rows = run.packed + placed.firstRow * shape_.columns() + 2 * shape_.heads * shape_.channels;
  return {lane.convBc + group * lane.states, 2 * shape_.groups * lane.states, rows + group * shape_.states,
          shape_.columns(), shape_.taps};
}

// B and C of a lane's row.
void LaneScan::convolveStates(const ScanRun& run, const Work& work, const PlacedLane& placed, size_t row) const {
  const size_t groups = 2 * shape_.groups;
  float* out = work.bc + (placed.firstRow + row) * groups * shape_.states;
  for (size_t group = 0; group < groups; group++) {
    const float* inputs[maxTaps];
    windowOfGroup(run, placed, group).ending(row, inputs);
    const size_t first = group * shape_.states;
    routines_.convolve(inputs, convBc_ + first * shape_.taps, shape_.states,
                       convBcBias_ ? convBcBias_ + first : nullptr, shape_.taps, placed.lane->states, out + first);
  }
}

void LaneScan::discretize(const ScanRun& run, const Work& work, const PlacedLane& placed, size_t head) const {
  const float* steps = run.packed + placed.firstRow * shape_.columns() + shape_.columns() - shape_.heads + head;
  float* deltas = work.deltas + head * run.rows + placed.firstRow;
  float* decays = work.decays + head * run.rows + placed.firstRow;
  for (size_t row = 0; row < placed.lane->rows; row++) {
    const float step = steps[row * shape_.columns()] + deltaBias_[head];
    const float softplus = (step > 0 ? step : 0) + std::log1p(std::exp(-std::fabs(step)));
    // Not by fmin and fmax, which take the bound for what is no number.
    const float bounded = softplus < shape_.leastDelta ? shape_.leastDelta : softplus;
    deltas[row] = bounded > shape_.greatestDelta ? shape_.greatestDelta : bounded;
    decays[row] = std::exp(deltas[row] * a_[head]);
  }
}

// One head of all rows of a lane, up to the gate.
void LaneScan::mixHead(const ScanRun& run, const Work& work, const PlacedLane& placed, size_t head) const {
  const ScanLane& lane = *placed.lane;
  const size_t width = shape_.channels, columns = shape_.columns(), outputs = shape_.heads * width;
  const size_t states = 2 * shape_.groups * shape_.states, group = head / (shape_.heads / shape_.groups);
  const Window window = windowOfHead(run, placed, head);
  float* y = run.y + placed.firstRow * outputs + head * width;
  const float* z = run.packed + placed.firstRow * columns + head * width;
  discretize(run, work, placed, head);

  ScanStretch scan{};
  scan.state = lane.state + head * lane.states * lane.channels;
  scan.states = lane.states;
  scan.channels = lane.channels;
  scan.bcStride = states;
  scan.xStride = outputs;
  scan.skip = skip_ + head * width;
  for (size_t first = 0; first < lane.rows; first += stageRows) {
    const size_t last = least(first + stageRows, lane.rows);
    for (size_t row = first; row < last; row++) {
      const float* inputs[maxTaps];
      window.ending(row, inputs);
      routines_.convolve(inputs, convX_ + head * shape_.taps * width, width,
                         convXBias_ ? convXBias_ + head * width : nullptr, shape_.taps, lane.channels,
                         y + row * outputs);
    }
    scan.rows = last - first;
    scan.deltas = work.deltas + head * run.rows + placed.firstRow + first;
    scan.decays = work.decays + head * run.rows + placed.firstRow + first;
    scan.b = work.bc + (placed.firstRow + first) * states + group * shape_.states;
    scan.c = scan.b + shape_.groups * shape_.states;
    scan.x = y + first * outputs;
    routines_.scan(scan);
    for (size_t row = first; row < last; row++) {
      float* out = y + row * outputs;
      routines_.gate(z + row * columns, out, lane.channels, out);
      std::memset(out + lane.channels, 0, (width - lane.channels) * sizeof(float));
    }
  }
  window.advance(lane.rows, lane.channels, lane.convX + head * lane.channels);
}

}  // namespace espalier

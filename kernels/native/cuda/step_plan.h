// Where the sequences of a step stand, for all of its kernels.
#pragma once

#include <cstdint>

namespace espalier::cuda {

constexpr int maxLanes = 64;
constexpr int maxLevels = 16;  // whose widths the kernels are told
// Integers of a lane's line.
constexpr int laneStride = 8;

struct LaneLine {
  int32_t firstRow, rows, length, level, slot, unused[laneStride - 5];
};
static_assert(sizeof(LaneLine) == laneStride * sizeof(int32_t));

struct StepPlanParameters {
  const int64_t* rows;    // [lanes]
  const int64_t* levels;  // [lanes]
  const int32_t* lengths;
  const int64_t* slots;
  int laneCount, levelCount;
  LaneLine* lanes;    // [lanes]
  int64_t* rowsUpTo;  // [levels]: rows of lanes of at most this level
};

}  // namespace espalier::cuda

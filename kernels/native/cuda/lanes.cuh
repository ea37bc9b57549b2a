// Finding the sequences of a step on the device.
#pragma once

#include "device.cuh"
#include "step_plan.h"

namespace espalier::cuda {

__device__ __forceinline__ int divideUp(int a, int b) { return (a + b - 1) / b; }
__device__ __forceinline__ int laneIndex() { return static_cast<int>(threadIdx.x % 32); }

__device__ __forceinline__ LaneLine readLine(const LaneLine* line) {
  LaneLine result;
  const int4 first = *reinterpret_cast<const int4*>(line);
  result.firstRow = first.x;
  result.rows = first.y;
  result.length = first.z;
  result.level = first.w;
  result.slot = line->slot;
  return result;
}

// The lane that a row of the batch belongs to; every warp finds it for itself. False if it belongs to none.
__device__ __forceinline__ bool findLane(const LaneLine* lanes, int laneCount, int row, LaneLine* line) {
  for (int first = 0; first < laneCount; first += 32) {
    const int i = first + laneIndex();
    const int2 rows = i < laneCount ? *reinterpret_cast<const int2*>(lanes + i) : make_int2(0, 0);
    const unsigned found = __ballot_sync(allLanes, row >= rows.x && row - rows.x < rows.y);
    if (found == 0) continue;
    *line = readLine(lanes + first + __ffs(static_cast<int>(found)) - 1);
    return true;
  }
  return false;
}

}  // namespace espalier::cuda

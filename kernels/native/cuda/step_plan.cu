#include "device.cuh"
#include "step_plan.h"

namespace espalier::cuda {

// One block. Thread i makes the line of lane i and counts the rows of level i.
extern "C" __global__ void __launch_bounds__(maxLanes) planStep(const __grid_constant__ StepPlanParameters p) {
  waitForPrevious();
  letNextStart();
  const int i = static_cast<int>(threadIdx.x);
  if (i < p.laneCount) {
    int64_t firstRow = 0;
    for (int lane = 0; lane < i; lane++) firstRow += p.rows[lane];
    p.lanes[i] = {static_cast<int32_t>(firstRow),    static_cast<int32_t>(p.rows[i]),  p.lengths[i],
                  static_cast<int32_t>(p.levels[i]), static_cast<int32_t>(p.slots[i]), {}};
  }
  if (i < p.levelCount) {
    int64_t rows = 0;
    for (int lane = 0; lane < p.laneCount; lane++) {
      if (p.levels[lane] <= i) rows += p.rows[lane];
    }
    p.rowsUpTo[i] = rows;
  }
}

}  // namespace espalier::cuda

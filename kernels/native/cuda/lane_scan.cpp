#include "lane_scan.h"

namespace espalier::cuda {
namespace {

// More rows than this are convolved once for all heads.
constexpr int mostFewRows = 16;

// Places among `scanKernels`.
constexpr size_t convolveKernel = 0, fewRowsKernels = 1, manyRowsKernels = 4, normKernel = 7;

constexpr int scanThreads = 128;
constexpr int sliceChannels = 64;  // of a block
constexpr int stageRows = 8;       // that lie in shared memory at a time, twice
constexpr int wideThreads = 256;

int divideUp(int a, int b) { return (a + b - 1) / b; }

// What the kernels are compiled for.
int compiledStates(int states) { return states <= 64 ? 64 : states <= 128 ? 128 : 256; }

// B, C and the channels of a row, its step and its decay.
constexpr size_t scanSharedBytes(int states) {
  return sizeof(float) * 2 * stageRows * (2 * static_cast<size_t>(states) + sliceChannels + 2);
}

bool takesFewRows(const ScanParameters& p) { return p.rows <= mostFewRows || p.rows <= p.laneCount; }

}  // namespace

const ScanKernel scanKernels[8] = {
    {"convolveRows", 0},
    {"scanFewRows64", scanSharedBytes(64)},
    {"scanFewRows128", scanSharedBytes(128)},
    {"scanFewRows256", scanSharedBytes(256)},
    {"scanManyRows64", scanSharedBytes(64)},
    {"scanManyRows128", scanSharedBytes(128)},
    {"scanManyRows256", scanSharedBytes(256)},
    {"gateAndNormalize", maxGroupChannels * sizeof(float)},
};

size_t scanWorkBytes(const ScanParameters& p) {
  if (takesFewRows(p)) return 0;
  const size_t channels = static_cast<size_t>(divideUp(p.channels, sliceChannels) * sliceChannels);
  const size_t bc = 2 * static_cast<size_t>(p.groups * compiledStates(p.states));
  return static_cast<size_t>(p.rows) * (bc + static_cast<size_t>(p.heads) * (channels + 2)) * sizeof(float);
}

size_t scanLaunches(const ScanParameters& p, ScanLaunch out[3]) {
  const int states = compiledStates(p.states), slices = divideUp(p.channels, sliceChannels);
  const size_t width = states == 64 ? 0 : states == 128 ? 1 : 2;
  size_t count = 0;
  if (!takesFewRows(p)) {
    const int values = p.heads * (slices * sliceChannels + 1) + 2 * p.groups * states;
    out[count++] = {convolveKernel,
                    {static_cast<unsigned>(divideUp(values, wideThreads)), static_cast<unsigned>(p.rows), 1},
                    wideThreads,
                    0};
  }
  const size_t scan = width + (takesFewRows(p) ? fewRowsKernels : manyRowsKernels);
  out[count++] = {scan,
                  {static_cast<unsigned>(p.heads), static_cast<unsigned>(slices), static_cast<unsigned>(p.laneCount)},
                  scanThreads,
                  scanKernels[scan].sharedBytes};
  const int group = p.heads / p.groups * p.channels, moved = p.heads * p.channels + 2 * p.groups * p.states;
  out[count++] = {normKernel,
                  {static_cast<unsigned>(p.rows * p.groups + p.laneCount * divideUp(moved, wideThreads)), 1, 1},
                  wideThreads,
                  static_cast<size_t>(group) * sizeof(float)};
  return count;
}

}  // namespace espalier::cuda

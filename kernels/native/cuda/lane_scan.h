// What stands between a Mamba-2 block's projections, on the device: convolution, recurrence, gate and norm for several
// sequences. What the host plans and the kernels read.
//
// A block has a head of a lane and up to 64 of its channels, and goes through the lane's rows with the state in
// registers. In a step of few rows it convolves what it needs by itself, in one of many rows a launch before it does so
// for everybody. A last launch gates and normalizes the rows, and moves the inputs of the convolutions on.
//
// Letters: H heads of P channels, G groups of N states, k taps; a lane has P' and N' of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "driver.h"
#include "step_plan.h"

namespace espalier::cuda {

constexpr int maxTaps = 16;
constexpr int maxStates = 256;
constexpr int maxScanRows = 65535;

struct ScanParameters {
  const float* packed;     // [rows][z and x of every head, B and C of every group, dt of every head]
  const LaneLine* lanes;   // [lanes]
  const float* convX;      // [H][full P][k], oldest tap first
  const float* convXBias;  // [H][full P]; null if there is none
  const float* convBc;     // [2G][full N][k]
  const float* convBcBias;
  const float* aLog;       // [H]
  const float* deltaBias;  // [H]
  const float* skip;       // [H], or [H][full P]
  const float* norm;       // [H][full P]
  float* convXState;       // [slots][k - 1][H][P]: the inputs of the last rows
  float* convBcState;      // [slots][k - 1][2G][N]
  float* state;            // [slots][H][N][P]
  float* y;                // [rows][H][P]; zero behind a lane's channels
  float* work;             // `scanWorkBytes`
  int rows, laneCount, heads, channels, fullChannels, groups, states, fullStates, taps, slots;
  int skipPerChannel;
  float leastDelta, greatestDelta, epsilon;
  int widths[maxLevels], stateWidths[maxLevels];  // P' and N'
};

struct ScanLaunch {
  size_t kernel;  // its place among `scanKernels`
  Grid grid;
  unsigned threads;
  size_t sharedBytes;
};

// Bytes of `work`, aligned to 64.
size_t scanWorkBytes(const ScanParameters&);

// The kernels that a run takes, in order: at most three.
size_t scanLaunches(const ScanParameters&, ScanLaunch out[3]);

// Channels of a group of heads in shared memory, of which `gateAndNormalize` can have so many.
constexpr int maxGroupChannels = 24 * 1024;

struct ScanKernel {
  const char* name;
  size_t sharedBytes;  // at most
};
extern const ScanKernel scanKernels[8];

}  // namespace espalier::cuda

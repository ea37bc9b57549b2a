// Causal attention of several sequences over their caches on the device: what the host plans and the kernels read.
//
// A step of few rows takes one launch. A block has a row, a key head and every so many-th stretch of the row's tokens;
// the last block of a row and key head joins the stretches. What the launch itself appends is read from the packed
// rows, so no block waits for another. A step of many rows takes two: one rotates queries and appends keys and values,
// the next goes through the caches tile by tile for 64 queries at a time.
//
// Letters: H query heads, G key heads. A query is a row and one of the H / G heads that share a key head, counted row
// by row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "driver.h"
#include "step_plan.h"

namespace espalier::cuda {

constexpr int maxHeadWidth = 256;
constexpr int maxHeads = 1024;
constexpr int maxAttentionRows = 65535;
// Pieces that a row's tokens are cut into, at most. How many depends on the tokens alone: a row's bits are the same
// whatever runs beside it.
constexpr int maxStretches = 32;
constexpr int stretchUnit = 64;

struct AttentionParameters {
  const float* packed;    // [rows][query, key, value heads][widest], the rows of lane after lane
  const LaneLine* lanes;  // [lanes]
  const float* cosines;   // [rows][frequencies]; null if nothing is turned
  const float* sines;
  const int64_t* pairs;  // [G][widest / 2]: the frequency of each pair of neighbours
  uint16_t* keys;        // [slots][G][capacity][widest], halves; a row is followed by zeros up to a multiple of 16
  uint16_t* values;
  float* y;           // [rows][H][widest]; zero behind a lane's width
  void* work;         // `attentionWorkBytes`
  unsigned* arrived;  // [rows][G][head tiles]: zero before a run and after it
  int rows, laneCount, queryHeads, keyHeads, widest, frequencies, capacity, slots, stretches;
  float scale;
  int widths[maxLevels];  // components that a level keeps
};

struct AttentionLaunch {
  size_t kernel;  // its place among `attentionKernels`
  Grid grid;
  unsigned threads;
  size_t sharedBytes;
};

// The components that the kernels are compiled for: 64, 128 or 256.
int compiledWidth(int widest);

bool takesFewRows(const AttentionParameters&);

// Bytes of `work`, aligned to 64. They depend on the parameters' integers alone.
size_t attentionWorkBytes(const AttentionParameters&);

// Integers of `arrived` that any run of few rows needs. `clearCounters` makes them zero.
size_t attentionCounters(const AttentionParameters&);

struct CounterParameters {
  unsigned* counters;
  size_t count;
};

// The kernels that a run takes, in order: at most two. Sets the parameters' `stretches`.
size_t attentionLaunches(AttentionParameters*, int multiprocessors, AttentionLaunch out[2]);

// Every kernel that there is, and the dynamic shared memory that it takes.
struct AttentionKernel {
  const char* name;
  size_t sharedBytes;
};
extern const AttentionKernel attentionKernels[7];

}  // namespace espalier::cuda

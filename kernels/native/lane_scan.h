// What stands between a Mamba-2 block's projections, for several sequences in one run: each goes on from states of its
// own. Convolution, recurrence, gate and norm; row after row, so that neither the cut into runs nor the other sequences
// show in the bits.
//
// Letters: H heads of P channels, G groups of N states, k taps; a lane has P' and N' of them.
#pragma once

#include <cstddef>

#include "lanes.h"
#include "parallel.h"
#include "routines.h"

namespace espalier {

struct ScanShape {
  size_t heads;
  size_t channels;      // P of the packed rows
  size_t fullChannels;  // P of the parameters and of the norm's mean: more, where the packed rows are those of a narrow
                        // level
  size_t groups;        // a divisor of the heads
  size_t states;        // N of the packed rows
  size_t fullStates;    // N of the parameters
  size_t taps;
  bool skipPerChannel;
  float leastDelta, greatestDelta;
  float epsilon;

  // Floats of a packed row: z and x of every head, B and C of every group, dt of every head.
  size_t columns() const { return 2 * heads * channels + 2 * groups * states + heads; }
};

// All at their full widths.
struct ScanParameters {
  const float* convX;      // [H][P][k], oldest tap first
  const float* convXBias;  // [H][P]; null if there is none
  const float* convBc;     // [2G][N][k]
  const float* convBcBias;
  const float* aLog;       // [H]
  const float* deltaBias;  // [H]
  const float* skip;       // [H], or [H][P]
  const float* norm;       // [H][P]
};

// What one sequence brings to a run; its states are written in place.
struct ScanLane {
  size_t rows;
  size_t channels;  // P'
  size_t states;    // N'
  float* convX;     // [k - 1][H][P']: the inputs of the last rows
  float* convBc;    // [k - 1][2G][N']
  float* state;     // [H][N'][P']
};

struct ScanRun {
  const float* packed;  // [rows][columns], the rows of lane after lane
  const ScanLane* lanes;
  size_t laneCount;
  size_t rows;  // of all lanes
  float* y;     // [rows][H][P]; zero behind a lane's channels
};

// Taps of a convolution at most.
constexpr size_t maxTaps = 16;

class LaneScan {
 public:
  // Packs the parameters into memory of its own. Null if there is not enough.
  static LaneScan* create(const Routines&, const ScanShape&, const ScanParameters&);
  ~LaneScan();
  LaneScan(const LaneScan&) = delete;
  LaneScan& operator=(const LaneScan&) = delete;

  const ScanShape& shape() const { return shape_; }

  // Bytes of work memory, aligned to 64, that a run over so many rows needs.
  size_t workBytes(size_t rows) const;

  // Loops of a run.
  static constexpr size_t loops = 3;

  // Several runs may overlap, each with work memory and states of its own.
  void run(const ScanRun&, void* work, const Parallel&) const;

 private:
  struct Work;
  struct PlacedLane;
  struct Window;

  LaneScan(const Routines& routines, const ScanShape& shape) : routines_(routines), shape_(shape) {}
  bool pack(const ScanParameters&);
  Window windowOfHead(const ScanRun&, const PlacedLane&, size_t head) const;
  Window windowOfGroup(const ScanRun&, const PlacedLane&, size_t group) const;
  void convolveStates(const ScanRun&, const Work&, const PlacedLane&, size_t row) const;
  void mixHead(const ScanRun&, const Work&, const PlacedLane&, size_t head) const;
  void discretize(const ScanRun&, const Work&, const PlacedLane&, size_t head) const;
  size_t headsPerTask(const ScanLane&) const;

  const Routines& routines_;
  const ScanShape shape_;
  float* memory_ = nullptr;
  // Inside it, heads and groups at the widths of the packed rows, taps before channels.
  float* convX_ = nullptr;   // [H][k][P]
  float* convBc_ = nullptr;  // [2G][k][N]
  float* convXBias_ = nullptr;
  float* convBcBias_ = nullptr;
  float* a_ = nullptr;  // [H]: A, below zero
  float* deltaBias_ = nullptr;
  float* skip_ = nullptr;  // [H][P]
  float* norm_ = nullptr;  // [H][P]
  float epsilon_ = 0;
};

}  // namespace espalier

// The caches and states of the lanes, as inputs of an operator: one float32 array per lane, in which those of all
// blocks lie one behind another, each in a place as large as the widest level needs it; a narrower sequence uses the
// beginning. They are written where they are.
//
// As tensors of their own, before and after a run, they were two values for each cache of each lane that the runtime
// looked up and passed on in every run: a tenth of a step of 30 small blocks and 8 lanes (Zen 5).
#pragma once

#include "operator.h"

namespace espalier {

constexpr size_t maxLevels = 64;

// What an operator keeps at each level, from the attribute of this name: so many widths, each 1 to `widest`.
struct LevelWidths {
  size_t widths[maxLevels];
  size_t levels = 0;

  ort::Status* read(const OperatorInfo&, const char* op, const char* name, size_t widest);
};

// The caches of one operator in the arrays of all lanes.
class LaneArrays {
 public:
  LaneArrays(Operands& operands, const char* op) : operands_(operands), op_(op) {}

  // Reads the input that says where caches begin, int64 [caches + 1], in floats; the operator's are `count` from
  // `first` on.
  ort::Status* open(size_t input, size_t first, size_t count);

  // Floats of the place of a cache, counted from the operator's first.
  size_t floats(size_t cache) const { return static_cast<size_t>(places_[cache + 1] - places_[cache]); }

  // Where the operator's caches are in the array that is this input.
  ort::Status* take(size_t input, float** caches) const;

 private:
  Operands& operands_;
  const char* op_;
  const int64_t* places_ = nullptr;  // of the operator's caches
  size_t count_ = 0;
};

}  // namespace espalier

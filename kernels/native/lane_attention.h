// Causal attention of several sequences in one run: each extends a cache of its own by its rows and reads it. Rotary
// positions come first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "parallel.h"
#include "routines.h"

namespace espalier {

struct AttentionShape {
  size_t queryHeads;
  size_t keyHeads;  // as many value heads; a divisor of the query heads
  size_t widest;    // components of a head in the packed rows
  float scale;      // of the scores
};

// What one sequence brings to a run.
struct Lane {
  size_t rows;      // its next tokens
  size_t length;    // tokens with these rows
  size_t width;     // components of a head that its level keeps
  size_t capacity;  // tokens of its cache, a multiple of `keyTokens`
  Half* keys;       // [key heads][capacity / 16][width][16]
  Half* values;     // [key heads][capacity][width]
};

struct AttentionRun {
  const float* packed;   // [rows][query, key, value heads][widest], the rows of lane after lane
  const float* cosines;  // [places in a sequence][frequencies]; null if nothing is turned
  const float* sines;
  size_t frequencies;
  const int64_t* pairs;  // [key heads][widest / 2]: the frequency of each pair of neighbours
  const Lane* lanes;
  size_t laneCount;
  float* y;  // [rows][query heads][widest]; zero behind a lane's width
};

class LaneAttention {
 public:
  LaneAttention(const Routines& routines, const AttentionShape& shape) : routines_(routines), shape_(shape) {}

  const AttentionShape& shape() const { return shape_; }

  // Bytes of work memory, aligned to 64.
  size_t workBytes(const AttentionRun&) const;

  // Loops of a run at most.
  static constexpr size_t loops = 4;

  // Several runs may overlap, each with work memory of its own and with other caches.
  void run(const AttentionRun&, void* work, const Parallel&) const;

 private:
  struct Task;
  struct Plan;
  struct State;

  Plan plan(const AttentionRun&) const;
  size_t blocksOf(const Lane&) const;
  Task taskAt(const AttentionRun&, size_t index) const;
  void gatherAngles(const AttentionRun&, size_t token, size_t head, size_t width, float* cosines, float* sines) const;
  void append(const AttentionRun&, const Lane&, size_t firstRow, size_t head) const;
  void rotateQueries(const AttentionRun&, const Task&, float* queries) const;
  void attend(const Task&, const float* queries, size_t stretch, const State&) const;
  void join(const Task&, const State& whole, const State& next) const;
  void store(const AttentionRun&, const Task&, const State&) const;
  void runWhole(const AttentionRun&, const Task&) const;

  const Routines& routines_;
  const AttentionShape shape_;
};

}  // namespace espalier

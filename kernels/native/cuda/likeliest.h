// The greatest logit of every row, found where the logits are: a host would take longer to look through them than a
// step's last product takes.
#pragma once

#include <cstdint>

namespace espalier::cuda {

struct LikeliestParameters {
  const float* logits;  // [rows][vocabulary]
  float* copy;          // the same, often in memory of the host: written, never read
  int64_t* tokens;      // [rows]: the first of the greatest; 0 where there is none, all being NaN or minus infinity
  uint64_t* best;       // [rows]: zero before a run and after it
  uint32_t* arrived;    // [rows]: the same
  int rows, vocabulary;
};

// Blocks that share a row.
constexpr int likeliestBlocks = 64;

}  // namespace espalier::cuda

// The greatest logit, against a plain search.
#pragma once

#include "../../parity/checks.h"
#include "../likeliest.h"
#include "device.h"

namespace espalier::cuda {
namespace {

void checkLikeliest(CheckedDevice& device, Random& random, size_t vocabulary) {
  const size_t rows = random.between(1, 5);
  std::snprintf(currentCase, sizeof(currentCase), "likeliest of %zu in %zu rows", vocabulary, rows);
  std::vector<float> logits = random.floats(rows * vocabulary, 8);
  // Few values, so that several are the greatest; none at all; what is no number.
  if (random.chance(3)) {
    for (float& logit : logits) logit = std::floor(logit);
  }
  if (random.chance(4)) std::fill(logits.begin(), logits.begin() + static_cast<long>(vocabulary), -INFINITY);
  if (random.chance(3)) logits[random.below(logits.size())] = NAN;
  if (random.chance(4)) logits[random.below(logits.size())] = INFINITY;
  DeviceMemory memory(device);
  LikeliestParameters p{};
  std::vector<float> copy(logits.size(), 0.5f);
  std::vector<int64_t> tokens(rows, -1);
  std::vector<uint64_t> best(rows, 0);
  std::vector<uint32_t> arrived(rows, 0);
  p.logits = memory.upload(logits);
  p.copy = memory.upload(copy);
  p.tokens = memory.upload(tokens);
  p.best = memory.upload(best);
  p.arrived = memory.upload(arrived);
  p.rows = static_cast<int>(rows);
  p.vocabulary = static_cast<int>(vocabulary);
  for (int run = 0; run < 2; run++) {  // the second finds what the first left
    device.launch("pickLikeliest", {static_cast<unsigned>(likeliestBlocks), static_cast<unsigned>(rows), 1}, 256, 0, &p,
                  sizeof(p));
  }
  memory.download(p.copy, copy);
  memory.download(p.tokens, tokens);
  memory.download(p.best, best);
  memory.download(p.arrived, arrived);
  check(sameBits(copy.data(), logits.data(), logits.size()), "the copy differs");
  for (size_t row = 0; row < rows; row++) {
    size_t wanted = 0;
    float greatest = -INFINITY;
    for (size_t token = 0; token < vocabulary; token++) {
      const float logit = logits[row * vocabulary + token];
      if (logit > greatest) wanted = token, greatest = logit;
    }
    check(tokens[row] == static_cast<int64_t>(wanted), "row %zu: %lld, wanted %zu", row,
          static_cast<long long>(tokens[row]), wanted);
    check(best[row] == 0 && arrived[row] == 0, "row %zu left something", row);
  }
}

}  // namespace
}  // namespace espalier::cuda

// Where the sequences of a random case stand.
#pragma once

#include <algorithm>
#include <vector>

#include "../../parity/checks.h"

namespace espalier::cuda {
namespace {

struct RandomLanes {
  int slotCount;
  std::vector<int> slots, levels;  // per lane: slots in no order, none twice; widest level first

  int count() const { return static_cast<int>(levels.size()); }
};

RandomLanes randomLanes(Random& random, int levels) {
  RandomLanes lanes;
  const int count = static_cast<int>(random.between(1, 5));
  lanes.slotCount = count + static_cast<int>(random.below(3));
  for (int i = 0; i < lanes.slotCount; i++) lanes.slots.push_back(i);
  for (int i = 0; i < count; i++) {
    std::swap(lanes.slots[static_cast<size_t>(i)],
              lanes.slots[random.between(static_cast<size_t>(i), lanes.slots.size() - 1)]);
    lanes.levels.push_back(static_cast<int>(random.below(static_cast<size_t>(levels))));
  }
  std::sort(lanes.levels.begin(), lanes.levels.end());
  return lanes;
}

}  // namespace
}  // namespace espalier::cuda

#pragma once

#include <cstddef>

namespace espalier {

// Lanes of a run at most: sequences that are worked on together.
constexpr size_t maxLanes = 64;

}  // namespace espalier

// Sizes in whole units. Not for what is compiled for one instruction set: see routines.h.
#pragma once

#include <cstddef>

namespace espalier {

// Bytes of a line of the processor's cache, and of its widest vectors.
constexpr size_t alignment = 64;

constexpr size_t least(size_t a, size_t b) { return a < b ? a : b; }

// How many units hold the value.
constexpr size_t ceilDivide(size_t value, size_t unit) { return (value + unit - 1) / unit; }

constexpr size_t roundUp(size_t value, size_t unit) { return ceilDivide(value, unit) * unit; }

}  // namespace espalier

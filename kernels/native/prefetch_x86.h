// How processors of x86 are asked for weights ahead of their use. What is best differs between their makers.
// Everything has internal linkage, see routines.h.
#pragma once

#include "generic_routines.h"

namespace espalier {
namespace {

enum class Maker { amd, other };

inline Maker makerOfProcessor() { return __builtin_cpu_is("amd") ? Maker::amd : Maker::other; }

// AMD: into the nearest cache; with `once` past the outer ones, which are left to what comes again in every layer:
// code, activations, keys and values. A step of one row takes 2 to 4 % less where two threads share a way to memory,
// and as long as before where each has its own (Zen 5, AVX-512).
//
// Others: into the second cache, since the nearest has room for few lines under way. One row gets 24 GB/s so, 22 where
// they come into the nearest, and 12 where they pass by the outer ones (Emerald Rapids, two threads).
template <Maker maker, bool once>
inline void prefetchWeights(const void* at) {
  __builtin_prefetch(at, 0, maker == Maker::amd ? (once ? 0 : 3) : 2);
}

}  // namespace
}  // namespace espalier

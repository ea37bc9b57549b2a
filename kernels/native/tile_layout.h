// How the weights of a tile lie in memory: in the order in which they are read, so that a thread reads one stream from
// end to end. Codes and scales in arrays of their own, two streams, are 3 % slower from memory (Zen 5).
//
// Two blocks at a time: their scales, float16 [2][16], which are a line of the processor's cache, then the codes of the
// one and those of the other, each [blockSize / 8][16][4]: four stored bytes, hence eight columns, of each of the 16
// rows. Where a tile has an odd number of blocks, the codes of the last one end it.
//
// Everything has internal linkage, see routines.h.
#pragma once

#include "routines.h"

namespace espalier {
namespace {

constexpr size_t scaleLine = 64;

[[maybe_unused]] constexpr size_t codeBytes(size_t blockSize) { return blockSize * tileRows / 2; }

// Where the scales of a block begin, in bytes.
[[maybe_unused]] constexpr size_t scalesAt(size_t block, size_t blockSize) {
  return block / 2 * (scaleLine + 2 * codeBytes(blockSize)) + block % 2 * (scaleLine / 2);
}

// Where its codes begin.
[[maybe_unused]] constexpr size_t codesAt(size_t block, size_t blockSize) {
  return block / 2 * (scaleLine + 2 * codeBytes(blockSize)) + scaleLine + block % 2 * codeBytes(blockSize);
}

// Bytes of a tile, whole lines.
[[maybe_unused]] constexpr size_t tileBytes(size_t blocks, size_t blockSize) {
  return (blocks + 1) / 2 * scaleLine + blocks * codeBytes(blockSize);
}

}  // namespace
}  // namespace espalier

// Holds every routine of every instruction set that this processor has, and the product that is built of them, against
// plain loops in integers and double precision. Random cases; a seed repeats them.
//
//   parity [--steps N] [--decoder-steps N] [--seed S]
//
// Steps are cases of all kinds; decoder steps those of `decoder.h`. Without either it runs a table: every block size,
// cut and row count. Ends with 1 if anything differed.
//
// Bounds, with u = 2^-24, the rounding of one float operation:
// - Integers (codes, offsets, sums of products) are equal.
// - A sum over n blocks is off by at most (n + 5) u times the sum of the blocks' magnitudes: every block's term is
//   rounded three times (the scale, the scaled sum, a share for the bias), and again by each addition after it.
// - A gated output: the error of silu is at most 1.1 times that of its argument, and exp itself is right to 2e-7.
// - Attention: see `estimateQuery`.
// - A scan's sums are not bounded in one formula: the plain loops carry every operation's rounding along.
// - What promises the same bits (prefix and mask, alone and in a batch, one thread and four, whole and in pieces) is
//   compared as bits.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "attention.h"
#include "decoder.h"
#include "memory.h"
#include "products.h"
#include "routines.h"
#include "scans.h"
#include "team.h"

using namespace espalier;

namespace {

constexpr size_t blockSizes[] = {32, 64, 128};
constexpr Cut cuts[] = {Cut::outputs, Cut::gated, Cut::inputs};

void runTable(Random& random) {
  for (const size_t heads : {1, 2, 3}) {
    for (const size_t perHead : {1, 3, 4, 7}) {
      for (const size_t rows : {1, 5, 40}) checkAttention(random, heads, perHead, rows, 600);
    }
  }
  checkAttention(random, 1, 40, 3, 100);
  for (int i = 0; i < 60; i++) checkScan(random, i % 6 == 0);
  for (const size_t blockSize : blockSizes) {
    for (int i = 0; i < 20; i++) checkRoutines(random, blockSize);
    for (const Cut cut : cuts) {
      for (size_t rows = 1; rows <= 17; rows++) checkProduct(random, cut, blockSize, rows);
      for (const size_t rows : {64, 150}) checkProduct(random, cut, blockSize, rows);
      for (int i = 0; i < 5; i++) checkProduct(random, cut, blockSize, random.between(1, 20), true);
    }
  }
}

void runDecoders(Random& random, size_t steps) {
  DecoderCounts counts;
  while (counts.steps < steps) {
    checkDecoder(random, std::min(steps - counts.steps, random.between(20, 200)), counts);
  }
  std::printf("%zu decoder steps of %zu rows, %zu of several levels; %zu sequences, narrowed %zu times\n", counts.steps,
              counts.rows, counts.mixed, counts.opened, counts.narrowed);
}

bool readNumber(const char* text, uint64_t* number) {
  char* end = nullptr;
  *number = text ? std::strtoull(text, &end, 10) : 0;
  return text && *text && *end == '\0';
}

}  // namespace

int main(int count, char** arguments) {
  uint64_t steps = 0, decoderSteps = 0, seed = 1;
  const struct {
    const char* flag;
    uint64_t* number;
  } numbers[] = {{"--steps", &steps}, {"--decoder-steps", &decoderSteps}, {"--seed", &seed}};
  for (int i = 1; i < count; i += 2) {
    const auto* known = std::find_if(std::begin(numbers), std::end(numbers),
                                     [&](const auto& number) { return std::strcmp(arguments[i], number.flag) == 0; });
    if (known == std::end(numbers) || !readNumber(arguments[i + 1], known->number)) {
      std::fprintf(stderr, "Cannot read %s: wanted --steps N, --decoder-steps N, --seed S\n", arguments[i]);
      return 2;
    }
  }
  std::printf("instruction sets:");
  forEachSet([](const Routines& routines) { std::printf(" %s", routines.name); });
  std::printf("\n");

  Random random{seed};
  checkMemory(random);
  checkTeam();
  if (steps == 0 && decoderSteps == 0) runTable(random);
  for (uint64_t step = 0; step < steps; step++) {
    const size_t blockSize = blockSizes[random.below(3)];
    checkRoutines(random, blockSize);
    const bool large = random.chance(16);
    const size_t rows = large               ? random.between(1, 3)
                        : random.chance(50) ? random.between(18, 150)
                                            : random.between(1, 17);
    checkProduct(random, cuts[random.below(3)], blockSize, rows, large);
    checkAttention(random, random.between(1, 3), random.between(1, 8), random.chance(4) ? random.between(1, 40) : 1,
                   random.chance(8) ? 900 : 90);
    if (random.chance(4)) checkScan(random, large);
  }
  if (decoderSteps > 0) runDecoders(random, decoderSteps);
  std::printf("%" PRIu64 " checks with seed %" PRIu64 ", %" PRIu64 " failed\n", checks, seed, failures);
  return failures == 0 ? 0 : 1;
}

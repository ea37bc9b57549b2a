// Holds every kernel against plain loops in double precision, on the emulation or on a device, whichever it is linked
// with. Random cases; a seed repeats them.
//
//   parity [--rounds N] [--seed S]
//
// Ends with 1 if anything differed.
#include <cinttypes>

#include "attention.h"
#include "likeliest.h"
#include "products.h"
#include "scan.h"

using namespace espalier;

namespace {

bool readNumber(const char* text, uint64_t* number) {
  char* end = nullptr;
  *number = text ? std::strtoull(text, &end, 10) : 0;
  return text && *text && *end == '\0';
}

void checkAttentions(Random& random) {
  cuda::checkAttention(random, 2, 4, 64, 300, 40);
  cuda::checkAttention(random, 1, 4, 128, 200, 70);
  cuda::checkAttention(random, 1, 2, 256, 90, 40);
  cuda::checkAttention(random, 2, 7, 48, 120, 30);
  cuda::checkAttention(random, 1, 1, 20, 200, 90);
  cuda::checkAttention(random, 1, 20, 80, 60, 20);
  cuda::checkAttention(random, static_cast<int>(random.between(1, 3)), static_cast<int>(random.between(1, 6)),
                       2 * static_cast<int>(random.between(1, 64)), 100, 30);
}

void checkScans(Random& random) {
  cuda::checkScan(random, 1, 2, 64, 128, 40, 20);
  cuda::checkScan(random, 2, 2, 64, 64, 60, 40);
  cuda::checkScan(random, 1, 1, 80, 256, 30, 20);
  cuda::checkScan(random, 2, 1, 30, 20, 50, 30);
  cuda::checkScan(random, static_cast<int>(random.between(1, 3)), static_cast<int>(random.between(1, 3)),
                  static_cast<int>(random.between(1, 70)), static_cast<int>(random.between(1, 140)), 40, 25);
}

}  // namespace

int main(int count, char** arguments) {
  uint64_t rounds = 1, seed = 1;
  for (int i = 1; i < count; i += 2) {
    const bool isRounds = std::strcmp(arguments[i], "--rounds") == 0, isSeed = std::strcmp(arguments[i], "--seed") == 0;
    if ((!isRounds && !isSeed) || !readNumber(arguments[i + 1], isRounds ? &rounds : &seed)) {
      std::fprintf(stderr, "Cannot read %s: wanted --rounds N, --seed S\n", arguments[i]);
      return 2;
    }
  }
  Random random{seed};
  for (uint64_t round = 0; round < rounds; round++) {
    cuda::checkProducts(cuda::checkedDevice(), random, 12);
    checkAttentions(random);
    for (const size_t vocabulary : {1, 7, 400, 4099, 50000}) {
      cuda::checkLikeliest(cuda::checkedDevice(), random, vocabulary);
    }
    checkScans(random);
  }
  std::printf("%" PRIu64 " checks with seed %" PRIu64 ", %" PRIu64 " failed\n", checks, seed, failures);
  return failures == 0 ? 0 : 1;
}

// What memory gives to threads that only read: the yardstick of decoding. It reads as the best of our operators does,
// huge pages from end to end and asking in advance, and computes next to nothing.
#include <chrono>

#include "memory.h"
#include "routines.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

double secondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Sums up a word of every line, asked for ahead of its use with the locality that suits the processor. A line comes
// whole, and with one load for each more of them are under way: 1.1 times as many bytes as where all are summed up
// (Emerald Rapids).
template <int locality>
uint64_t sumOfLines(const uint64_t* words, size_t count) {
  uint64_t sum = 0;
  for (size_t i = 0; i < count; i += 64 / sizeof(uint64_t)) {
    __builtin_prefetch(words + i + espalier::prefetchBytes / sizeof(uint64_t), 0, locality);
    sum ^= words[i];
  }
  return sum;
}

bool likesSecondCache() {
#if defined(__x86_64__)
  return !__builtin_cpu_is("amd");  // see prefetch_x86.h
#else
  return false;
#endif
}

}  // namespace

// Memory for it, all written, so that every page is there; null if there is not enough.
EXPORTED void* EspalierOpenStream(size_t bytes) {
  auto* words = static_cast<uint64_t*>(espalier::allocateWeights(bytes));
  for (size_t i = 0; words && i < bytes / sizeof(uint64_t); i++) words[i] = i;
  return words;
}

EXPORTED void EspalierCloseStream(void* stream) { espalier::freeWeights(stream); }

// Reads a stream, of whole lines of 64 bytes, once as many threads have come as were told to read, so that none reads
// alone. `came` is zero before they do and theirs together; `times` gets when this one began and ended, in seconds. The
// sum is there so that nothing is left out.
EXPORTED uint64_t EspalierReadStream(const void* stream, size_t bytes, uint32_t threads, uint32_t* came,
                                     double* times) {
  const auto* words = static_cast<const uint64_t*>(stream);
  const size_t count = bytes / sizeof(uint64_t);
  __atomic_fetch_add(came, 1, __ATOMIC_ACQ_REL);
  while (__atomic_load_n(came, __ATOMIC_ACQUIRE) < threads) continue;
  times[0] = secondsNow();
  const uint64_t sum = likesSecondCache() ? sumOfLines<2>(words, count) : sumOfLines<3>(words, count);
  times[1] = secondsNow();
  return sum;
}

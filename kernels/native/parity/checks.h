// What the parts of the parity program share: counted checks, random numbers, guarded memory, plain arithmetic.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../routines.h"

#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER 1
#endif
#endif

namespace espalier {
namespace {

constexpr double u = 0x1p-24;
constexpr double exponentialError = 5e-7;

uint64_t checks = 0;
uint64_t failures = 0;
char currentCase[512] = "";

__attribute__((format(printf, 2, 3))) void check(bool holds, const char* format, ...) {
  checks++;
  if (holds) return;
  if (++failures > 20) return;
  std::printf("FAILED %s: ", currentCase);
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

// Which bits stand for no number is left open: it depends on the order of operands.
template <typename Number>
bool sameBits(const Number* a, const Number* b, size_t count) {
  return std::equal(a, a + count, b, [](const Number& one, const Number& other) {
    return std::memcmp(&one, &other, sizeof(Number)) == 0 || (one != one && other != other);
  });
}

// Random numbers (splitmix64).
struct Random {
  uint64_t state;

  uint64_t bits() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  size_t below(size_t end) { return static_cast<size_t>(bits() % end); }
  size_t between(size_t first, size_t last) { return first + below(last - first + 1); }
  bool chance(size_t oneIn) { return below(oneIn) == 0; }
  float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-23f - 1.0f; }  // [-1, 1)

  std::vector<float> floats(size_t count, float scale = 1) {
    std::vector<float> values(count);
    for (float& value : values) value = scale * uniform();
    return values;
  }
  std::vector<uint8_t> bytes(size_t count) {
    std::vector<uint8_t> values(count);
    for (uint8_t& value : values) value = static_cast<uint8_t>(bits());
    return values;
  }
  // Finite halves of at most 1, now and then zero, subnormal or negative.
  std::vector<uint16_t> halves(size_t count) {
    std::vector<uint16_t> values(count);
    for (uint16_t& value : values) {
      const size_t exponent = chance(16) ? 0 : between(4, 14);
      value = static_cast<uint16_t>((chance(8) ? 0x8000 : 0) | (exponent << 10) | (chance(64) ? 0 : below(1024)));
    }
    return values;
  }
};

// Memory that shows where it was written beyond its ends.
class Guarded {
 public:
  Guarded(size_t bytes, uint8_t fill) : bytes_(bytes) {
    whole_ = static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 2 * band + 63) / 64 * 64));
    if (!whole_) std::abort();
    std::memset(whole_, mark, bytes + 2 * band);
    std::memset(whole_ + band, fill, bytes);
  }
  ~Guarded() { std::free(whole_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  void* data() { return whole_ + band; }
  float* floats() { return static_cast<float*>(data()); }
  void checkBands(const char* name) const {
    bool whole = true;
    for (size_t i = 0; i < band; i++) whole = whole && whole_[i] == mark && whole_[band + bytes_ + i] == mark;
    check(whole, "%s was written beyond its %zu bytes", name, bytes_);
  }

 private:
#if defined(ADDRESS_SANITIZER)
  static constexpr size_t band = 0;  // the sanitizer guards the ends, and sees reads too
#else
  static constexpr size_t band = 256;
#endif
  static constexpr uint8_t mark = 0xa5;
  size_t bytes_;
  uint8_t* whole_;
};

constexpr Half noNumber = 0x7e00, greatestHalf = 0x7bff;

double fromHalf(Half half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  if (exponent == 31 && fraction != 0) return NAN;
  if (exponent == 31) return half & 0x8000 ? -HUGE_VAL : HUGE_VAL;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

// Rows rounded to int8, in the order of their columns. A block with a value that is not finite has codes of zero, and
// a scale that is no number.
struct Quantized {
  std::vector<int32_t> codes;
  std::vector<float> scales;
};

Quantized quantizePlainly(const float* x, size_t columns, size_t blockSize) {
  Quantized row;
  for (size_t start = 0; start < columns; start += blockSize) {
    const size_t end = std::min(columns, start + blockSize);
    const bool finite = std::all_of(x + start, x + end, [](float value) { return std::isfinite(value); });
    float greatest = finite ? 0 : NAN;
    for (size_t i = start; i < end && finite; i++) greatest = std::fmax(greatest, std::fabs(x[i]));
    const float inverse = greatest < leastMagnitude ? 0 : 127.0f / greatest;
    for (size_t i = start; i < start + blockSize; i++) {
      row.codes.push_back(i < end && finite ? static_cast<int32_t>(std::lrint(x[i] * inverse)) : 0);
    }
    row.scales.push_back(greatest / 127.0f);
  }
  return row;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

// A value in double precision, and how far a float result may be off.
struct Estimate {
  double value = 0;
  double error = 0;
};

bool within(float found, const Estimate& wanted) {
  if (std::isnan(wanted.value)) return std::isnan(found);
  return std::fabs(found - wanted.value) <= wanted.error;
}

template <typename Visit>
void forEachSet(Visit&& visit) {
  for (const Routines* const* routines = allRoutines; *routines; routines++) {
    if ((*routines)->supported()) visit(**routines);
  }
}

// Rows as a model has them, and rows that are hard: zeros, a single value, very small and very large ones.
std::vector<float> activations(Random& random, size_t count) {
  static constexpr float sizes[] = {1, 1, 1, 30, 1e-6f, 1e6f, 1e-30f, 3e-38f, 1e-41f};
  std::vector<float> values = random.floats(count, sizes[random.below(sizeof(sizes) / sizeof(float))]);
  if (random.chance(8)) {
    const size_t start = random.below(count);
    for (size_t i = start; i < count && i < start + 200; i++) values[i] = 0;
  }
  if (random.chance(8)) values[random.below(count)] *= 1000;
  return values;
}

// Now and then puts a value among others that is not finite.
void spoil(Random& random, std::vector<float>& values) {
  static constexpr float kinds[] = {NAN, -NAN, INFINITY, -INFINITY};
  if (random.chance(8)) values[random.below(values.size())] = kinds[random.below(4)];
}

}  // namespace
}  // namespace espalier

// Plain C++ for any processor.
#include "attention_loops.h"
#include "scan_loops.h"

namespace espalier {
namespace {

bool supported() { return true; }

void multiplyTile(const TileProduct& p, size_t rows) {
  for (size_t r = 0; r < rows; r++) {
    float* sums = p.sums + r * tileRows;
    const uint8_t* codes = p.weights;
    for (size_t block = 0; block < p.blocks; block++) {
      const uint16_t* scales = beginBlock(p, block, &codes);
      const int8_t* activations = p.activations + (block * p.blockSize * p.groupRows + 8 * r);
      int32_t dots[tileRows];
      for (size_t row = 0; row < tileRows; row++) dots[row] = p.offsets[block * p.groupRows + r];
      for (size_t column = 0; column < p.blockSize; column += 8, codes += 64, activations += 8 * p.groupRows) {
        for (size_t row = 0; row < tileRows; row++) {
          for (size_t i = 0; i < 4; i++) {
            const int32_t byte = codes[row * 4 + i];
            dots[row] += (byte & 15) * activations[i] + (byte >> 4) * activations[4 + i];
          }
        }
      }
      const float scale = p.activationScales[block * p.groupRows + r];
      for (size_t row = 0; row < tileRows; row++) {
        sums[row] += static_cast<float>(dots[row]) * (halfToFloat(scales[row]) * scale);
      }
    }
  }
}

struct Simd {
  typedef float Vector __attribute__((vector_size(16)));
  static constexpr size_t lanes = 4, vectors = 2;
  static Vector zero() { return Vector{}; }
  static Vector broadcast(float value) { return Vector{value, value, value, value}; }
  static Vector load(const float* from) { return loadFew(from, lanes); }
  static Vector loadFew(const float* from, size_t count) {
    Vector value{};
    std::memcpy(&value, from, count * sizeof(float));
    return value;
  }
  static Vector loadHalves(const Half* from) { return loadFewHalves(from, lanes); }
  static Vector loadFewHalves(const Half* from, size_t count) {
    Vector value{};
    for (size_t i = 0; i < count; i++) value[i] = anyHalfToFloat(from[i]);
    return value;
  }
  static void store(float* to, Vector value) { storeFew(to, value, lanes); }
  static void storeHalves(Half* to, Vector value) {
    for (size_t i = 0; i < lanes; i++) to[i] = floatToHalf(value[i]);
  }
  static void storeFew(float* to, Vector value, size_t count) { std::memcpy(to, &value, count * sizeof(float)); }
  static Vector multiplyAdd(Vector a, Vector b, Vector c) { return a * b + c; }
};

}  // namespace

extern const Routines portableRoutines;
const Routines portableRoutines = {
    "portable",
    {fewRows, Layout::eights, multiplyOneByOne<multiplyTile>},
    {fewRows, Layout::eights, multiplyOneByOne<multiplyTile>},
    supported,
    quantizeRowGeneric,
    normalizeRowGeneric,
    gateGeneric,
    rotateHeadGeneric,
    toHalvesWith<Simd>,
    attendWith<Simd>,
    joinGeneric,
    convolveGeneric,
    scanWith<Simd>,
};

}  // namespace espalier

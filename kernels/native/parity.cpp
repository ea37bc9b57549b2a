// Holds every routine of every instruction set that this processor has, and the product that is built of them, against
// plain loops in integers and double precision. Random cases; a seed repeats them.
//
//   parity [--steps N] [--seed S]
//
// Without steps it runs a table: every block size, cut and row count. Ends with 1 if anything differed.
//
// Bounds, with u = 2^-24, the rounding of one float operation:
// - Integers (codes, offsets, sums of products) are equal.
// - A sum over n blocks is off by at most (n + 5) u times the sum of the blocks' magnitudes: every block's term is rounded
//   three times (the scale, the scaled sum, a share for the bias), and again by each addition after it.
// - A gated output: the error of silu is at most 1.1 times that of its argument, and exp itself is right to 2e-7.
// - What promises the same bits (prefix and mask, alone and in a batch, one thread and four) is compared as bits.
#include <pthread.h>

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "memory.h"
#include "prefix_product.h"
#include "routines.h"

#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER 1
#endif
#endif

using namespace espalier;

namespace {

constexpr double u = 0x1p-24;
constexpr double exponentialError = 5e-7;

// ---- Results

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

bool sameBits(const float* a, const float* b, size_t count) { return std::memcmp(a, b, count * sizeof(float)) == 0; }

// ---- Random numbers (splitmix64)

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

// ---- Memory that shows where it was written beyond its end

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

// ---- Orders in which tasks can run

using Body = void (*)(void* user, size_t index);

void runForward(void*, Body body, size_t total, void* user) {
  for (size_t i = 0; i < total; i++) body(user, i);
}

void runBackward(void*, Body body, size_t total, void* user) {
  for (size_t i = total; i > 0; i--) body(user, i - 1);
}

struct Crew {
  Body body;
  void* user;
  size_t total;
  size_t next;
};

void* work(void* shared) {
  auto* crew = static_cast<Crew*>(shared);
  for (;;) {
    const size_t index = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED);
    if (index >= crew->total) return nullptr;
    crew->body(crew->user, index);
  }
}

void runThreaded(void* threads, Body body, size_t total, void* user) {
  Crew crew{body, user, total, 0};
  const size_t count = *static_cast<const size_t*>(threads);
  std::vector<pthread_t> members(count);
  for (pthread_t& member : members) {
    if (pthread_create(&member, nullptr, work, &crew) != 0) std::abort();
  }
  for (pthread_t member : members) pthread_join(member, nullptr);
}

// ---- Plain arithmetic

double fromHalf(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

// Rows rounded to int8, in the order of their columns.
struct Quantized {
  std::vector<int32_t> codes;
  std::vector<float> scales;
};

Quantized quantizePlainly(const float* x, size_t columns, size_t blockSize) {
  Quantized row;
  for (size_t start = 0; start < columns; start += blockSize) {
    float greatest = 0;
    for (size_t i = start; i < columns && i < start + blockSize; i++) greatest = std::fmax(greatest, std::fabs(x[i]));
    const float inverse = greatest < leastMagnitude ? 0 : 127.0f / greatest;
    for (size_t i = start; i < start + blockSize; i++) {
      row.codes.push_back(i < columns ? static_cast<int32_t>(std::lrint(x[i] * inverse)) : 0);
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

bool within(float found, const Estimate& wanted) { return std::fabs(found - wanted.value) <= wanted.error; }

// ---- Routines one by one

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

void checkQuantizing(Random& random, size_t blockSize) {
  constexpr size_t order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  const size_t columns = random.between(1, 4 * blockSize + 3);
  const size_t blocks = (columns + blockSize - 1) / blockSize;
  const std::vector<float> x = activations(random, columns);
  const Quantized wanted = quantizePlainly(x.data(), columns, blockSize);
  forEachSet([&](const Routines& routines) {
    Guarded codes(blocks * blockSize, 0x77), scales(blocks * 4, 0x77), offsets(blocks * 4, 0x77);
    routines.quantizeRow(x.data(), columns, blockSize, static_cast<int8_t*>(codes.data()), scales.floats(),
                         static_cast<int32_t*>(offsets.data()));
    codes.checkBands("codes");
    scales.checkBands("scales");
    offsets.checkBands("offsets");
    const auto* found = static_cast<const int8_t*>(codes.data());
    check(sameBits(scales.floats(), wanted.scales.data(), blocks), "%s: scales of %zu columns", routines.name, columns);
    for (size_t block = 0; block < blocks; block++) {
      int32_t sum = 0;
      bool same = true;
      for (size_t i = block * blockSize; i < (block + 1) * blockSize; i++) {
        same = same && found[i] == wanted.codes[i / 8 * 8 + order[i % 8]];
        sum += wanted.codes[i];
      }
      check(same, "%s: codes of block %zu of %zu columns", routines.name, block, columns);
      check(static_cast<const int32_t*>(offsets.data())[block] == -8 * sum, "%s: offset of block %zu of %zu columns",
            routines.name, block, columns);
    }
  });
}

void checkTile(Random& random, size_t blockSize) {
  const size_t blocks = random.between(1, 6), rows = random.between(1, maxRows);
  const size_t stride = blocks * blockSize + 8 * random.below(3), blockStride = blocks + random.below(3);
  const std::vector<uint8_t> codes = random.bytes(blocks * blockSize / 2 * tileRows);
  const std::vector<uint16_t> scales = random.halves(blocks * tileRows);
  std::vector<int8_t> values(rows * stride);
  for (int8_t& value : values) value = static_cast<int8_t>(static_cast<int>(random.below(255)) - 127);
  if (random.chance(4)) std::memset(values.data(), random.chance(2) ? 127 : -127, values.size());  // sums at their limits
  const std::vector<float> activationScales = random.floats(rows * blockStride);
  std::vector<int32_t> offsets(rows * blockStride);
  for (int32_t& offset : offsets) offset = static_cast<int32_t>(random.below(260096)) - 130048;
  const std::vector<float> before = random.floats(rows * tileRows);

  const auto dot = [&](size_t row, size_t block, size_t output) {
    int64_t sum = offsets[row * blockStride + block];
    for (size_t eight = 0; eight < blockSize / 8; eight++) {
      for (size_t i = 0; i < 4; i++) {
        const int64_t byte = codes[((block * blockSize / 8 + eight) * tileRows + output) * 4 + i];
        const int8_t* eightValues = values.data() + row * stride + block * blockSize + 8 * eight;
        sum += byte % 16 * eightValues[i] + byte / 16 * eightValues[4 + i];
      }
    }
    return sum;
  };
  forEachSet([&](const Routines& routines) {
    TileProduct product{};
    product.codes = codes.data();
    product.scales = scales.data();
    product.blocks = blocks;
    product.blockSize = blockSize;
    product.activations = values.data();
    product.activationStride = stride;
    product.activationScales = activationScales.data();
    product.offsets = offsets.data();
    product.blockStride = blockStride;
    Guarded sums(rows * tileRows * 4, 0);
    product.sums = sums.floats();
    std::memcpy(sums.data(), before.data(), rows * tileRows * 4);
    routines.multiplyTile(product, rows);
    sums.checkBands("sums");
    for (size_t i = 0; i < rows * tileRows; i++) {
      const size_t row = i / tileRows, output = i % tileRows;
      Estimate wanted{before[i], std::fabs(before[i])};
      for (size_t block = 0; block < blocks; block++) {
        const double term = static_cast<double>(dot(row, block, output)) * fromHalf(scales[block * tileRows + output]) *
                            activationScales[row * blockStride + block];
        wanted.value += term;
        wanted.error += std::fabs(term);
      }
      wanted.error *= (static_cast<double>(blocks) + 5) * u;
      check(within(sums.floats()[i], wanted), "%s: sum of row %zu of %zu, output %zu: %.9g, wanted %.9g ± %.2g", routines.name,
            row, rows, output, static_cast<double>(sums.floats()[i]), wanted.value, wanted.error);
    }
    // One block with scales of 1 shows the integers themselves.
    const std::vector<uint16_t> ones(tileRows, 0x3c00);
    const std::vector<float> unit(rows * blockStride, 1.0f);
    product.scales = ones.data();
    product.activationScales = unit.data();
    product.blocks = 1;
    std::memset(sums.data(), 0, rows * tileRows * 4);
    routines.multiplyTile(product, rows);
    for (size_t i = 0; i < rows * tileRows; i++) {
      const int64_t wanted = dot(i / tileRows, 0, i % tileRows);
      check(sums.floats()[i] == static_cast<float>(wanted), "%s: integer sum of row %zu, output %zu: %.9g, wanted %" PRId64,
            routines.name, i / tileRows, i % tileRows, static_cast<double>(sums.floats()[i]), wanted);
    }
  });
}

void checkNorm(Random& random) {
  const size_t columns = random.between(1, 300);
  const std::vector<float> x = random.floats(columns, random.chance(4) ? 1e4f : 1.0f), weight = random.floats(columns);
  const float epsilon = 1e-5f;
  double squares = 0;
  for (float value : x) squares += static_cast<double>(value) * value;
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(columns) + static_cast<double>(epsilon));
  std::vector<float> first;
  forEachSet([&](const Routines& routines) {
    Guarded y(columns * 4, 0x77);
    routines.normalizeRow(x.data(), weight.data(), columns, epsilon, y.floats());
    y.checkBands("normalized row");
    for (size_t i = 0; i < columns; i++) {
      const double wanted = x[i] * inverse * weight[i];
      // A lane sums at most columns / 16 + 16 squares, and all lanes are summed; a root halves the relative error.
      const double error = (static_cast<double>(columns) / 16 + 28) * u * std::fabs(wanted) + 1e-45;
      check(within(y.floats()[i], {wanted, error}), "%s: norm of %zu columns at %zu", routines.name, columns, i);
    }
    if (first.empty()) first.assign(y.floats(), y.floats() + columns);
    check(sameBits(first.data(), y.floats(), columns), "%s: norm differs from another set's", routines.name);
  });
}

void checkGate(Random& random) {
  const size_t count = random.between(1, 100);
  std::vector<float> gate = random.floats(count, 20), up = random.floats(count, 5);
  if (random.chance(4)) gate[random.below(count)] = random.chance(2) ? 200.0f : -200.0f;
  std::vector<float> first;
  forEachSet([&](const Routines& routines) {
    Guarded y(count * 4, 0x77);
    routines.gate(gate.data(), up.data(), count, y.floats());
    y.checkBands("gated values");
    for (size_t i = 0; i < count; i++) {
      const double wanted = silu(gate[i]) * up[i];
      // The exponential stops at 88: beyond it, silu is less than 1e-35 where it should be less still.
      const double error = exponentialError * std::fabs(wanted) + 1e-35 * std::fabs(up[i]);
      check(within(y.floats()[i], {wanted, error}), "%s: gate %g", routines.name, static_cast<double>(gate[i]));
    }
    if (first.empty()) first.assign(y.floats(), y.floats() + count);
    check(sameBits(first.data(), y.floats(), count), "%s: gate differs from another set's", routines.name);
  });
}

void checkRotation(Random& random) {
  const size_t originalPairs = random.between(1, 64), width = 2 * random.between(1, originalPairs);
  const std::vector<float> angles = random.floats(originalPairs, 100), x = random.floats(width);
  std::vector<float> cosines(originalPairs), sines(originalPairs);
  for (size_t i = 0; i < originalPairs; i++) {
    cosines[i] = std::cos(angles[i]);
    sines[i] = std::sin(angles[i]);
  }
  std::vector<int64_t> pairs(width / 2);
  for (int64_t& pair : pairs) pair = static_cast<int64_t>(random.below(originalPairs));
  forEachSet([&](const Routines& routines) {
    Guarded y(width * 4, 0x77);
    routines.rotateHead({cosines.data(), sines.data(), pairs.data(), width}, x.data(), y.floats());
    y.checkBands("rotated head");
    for (size_t i = 0; i < width; i += 2) {
      const auto pair = static_cast<size_t>(pairs[i / 2]);
      const double c = cosines[pair], s = sines[pair], a = x[i], b = x[i + 1];
      const double error = 2 * u * (std::fabs(a) + std::fabs(b));
      check(within(y.floats()[i], {a * c - b * s, error}) && within(y.floats()[i + 1], {a * s + b * c, error}),
            "%s: pair %zu of a head of %zu", routines.name, i / 2, width);
    }
  });
}

void checkAttention(Random& random) {
  const size_t width = random.between(1, 80), rows = random.between(1, 9), most = random.between(rows, rows + 70);
  const float scale = 1 / std::sqrt(static_cast<float>(width));
  const std::vector<float> queries = random.floats(rows * width, 2), keys = random.floats(most * width, 2);
  const std::vector<float> values = random.floats(most * width);
  std::vector<size_t> visible(rows);
  for (size_t r = 0; r < rows; r++) visible[r] = most - rows + 1 + r;
  const size_t stride = (most + 15) / 16 * 16;
  forEachSet([&](const Routines& routines) {
    Guarded outputs(rows * width * 4, 0x77), scores(rows * stride * 4, 0x77);
    std::vector<const float*> queryRows(rows);
    std::vector<float*> outputRows(rows);
    for (size_t r = 0; r < rows; r++) {
      queryRows[r] = queries.data() + r * width;
      outputRows[r] = outputs.floats() + r * width;
    }
    routines.attendHead({queryRows.data(), outputRows.data(), visible.data(), rows, keys.data(), values.data(), width, scale,
                         scores.floats(), stride});
    outputs.checkBands("attended rows");
    scores.checkBands("scores");
    for (size_t r = 0; r < rows; r++) {
      std::vector<double> weights(visible[r]);
      double greatest = -INFINITY, sum = 0, scoreError = 0;
      for (size_t t = 0; t < visible[r]; t++) {
        double score = 0, size = 0;
        for (size_t i = 0; i < width; i++) {
          const double product = static_cast<double>(queries[r * width + i]) * keys[t * width + i];
          score += product;
          size += std::fabs(product);
        }
        weights[t] = score * scale;
        greatest = std::fmax(greatest, weights[t]);
        scoreError = std::fmax(scoreError, size * scale * (static_cast<double>(width) / 16 + 24) * u);
      }
      for (double& weight : weights) sum += weight = std::exp(weight - greatest);
      // A weight is off by its score's error and the sum's, and every addition rounds; values are at most 1.
      const double error = 4 * scoreError + 2 * exponentialError + 2 * static_cast<double>(most) * u;
      bool same = true;
      for (size_t i = 0; i < width; i++) {
        double wanted = 0;
        for (size_t t = 0; t < visible[r]; t++) wanted += weights[t] / sum * values[t * width + i];
        same = same && within(outputs.floats()[r * width + i], {wanted, error});
      }
      check(same, "%s: attention of row %zu of %zu over %zu keys of %zu", routines.name, r, rows, visible[r], width);
    }
  });
}

// ---- Products

struct Layer {
  ProductShape shape;
  std::vector<StoredChunk> chunks;
  std::vector<std::vector<uint8_t>> codes;
  std::vector<std::vector<uint16_t>> scales;
  std::vector<std::vector<float>> biases;
  size_t inputs = 0, outputs = 0, widest = 0, levels = 0;

  size_t rowsOf(const StoredChunk& chunk) const { return shape.cut == Cut::inputs ? shape.uncut : shape.groups * chunk.width; }
  size_t columnsOf(const StoredChunk& chunk) const {
    return shape.cut == Cut::inputs ? shape.groups * chunk.width : shape.uncut;
  }
};

Layer randomLayer(Random& random, Cut cut, size_t blockSize) {
  Layer layer;
  layer.shape = {cut, cut == Cut::gated ? 2 : random.between(1, 5), random.between(1, random.chance(4) ? 700 : 150), blockSize};
  const size_t count = random.between(1, 6);
  size_t level = random.below(8);
  const bool biased = random.chance(2);
  for (size_t c = 0; c < count; c++) {
    const size_t width = random.chance(3) ? 16 * random.between(1, 3) : random.between(1, 40);
    layer.chunks.push_back({nullptr, nullptr, nullptr, width, level});
    layer.levels = std::max(layer.levels, level + 1);
    level -= random.below(level + 1) / 2;
    layer.widest += width;
  }
  for (StoredChunk& chunk : layer.chunks) {
    const size_t rows = layer.rowsOf(chunk), blocks = (layer.columnsOf(chunk) + blockSize - 1) / blockSize;
    layer.codes.push_back(random.bytes(rows * blocks * blockSize / 2));
    layer.scales.push_back(random.halves(rows * blocks));
    layer.biases.push_back(random.floats(biased && !random.chance(4) ? rows : 0));
  }
  for (size_t c = 0; c < count; c++) {
    layer.chunks[c].codes = layer.codes[c].data();
    layer.chunks[c].scales = layer.scales[c].data();
    layer.chunks[c].bias = layer.biases[c].empty() ? nullptr : layer.biases[c].data();
  }
  layer.inputs = cut == Cut::inputs ? layer.shape.groups * layer.widest : layer.shape.uncut;
  layer.outputs = cut == Cut::inputs ? layer.shape.uncut : cut == Cut::gated ? layer.widest : layer.shape.groups * layer.widest;
  return layer;
}

struct Batch {
  std::vector<float> x, normWeight, residual;
  std::vector<size_t> levels;  // of each row, ascending
  float epsilon = 1e-6f;
};

Batch randomBatch(Random& random, const Layer& layer, size_t rows) {
  Batch batch;
  batch.x = activations(random, rows * layer.inputs);
  if (layer.shape.cut != Cut::inputs && random.chance(2)) batch.normWeight = random.floats(layer.inputs);
  if (layer.shape.cut == Cut::inputs ? !random.chance(4) : random.chance(4)) batch.residual = random.floats(rows * layer.outputs);
  const bool alike = random.chance(4);
  const size_t one = random.below(layer.levels);
  for (size_t row = 0; row < rows; row++) batch.levels.push_back(alike ? one : random.below(layer.levels));
  std::sort(batch.levels.begin(), batch.levels.end());
  return batch;
}

// Rows first to last of a batch. With `whole`, every row takes all chunks.
std::vector<float> run(const PrefixProduct& product, const Layer& layer, const Batch& batch, size_t first, size_t last,
                       bool whole, const Parallel& parallel, uint8_t fill) {
  const size_t rows = last - first;
  std::vector<int64_t> rowsUpTo(layer.levels, 0);
  for (size_t row = first; row < last; row++) {
    for (size_t level = batch.levels[row]; level < layer.levels; level++) rowsUpTo[level]++;
  }
  Guarded y(rows * layer.outputs * 4, fill), memory(product.workBytes(rows), fill);
  ProductRun productRun{};
  productRun.x = batch.x.data() + first * layer.inputs;
  productRun.rows = rows;
  productRun.rowsUpTo = whole ? nullptr : rowsUpTo.data();
  productRun.normWeight = batch.normWeight.empty() ? nullptr : batch.normWeight.data();
  productRun.epsilon = batch.epsilon;
  productRun.residual = batch.residual.empty() ? nullptr : batch.residual.data() + first * layer.outputs;
  productRun.y = y.floats();
  product.run(productRun, memory.data(), parallel);
  y.checkBands("y");
  memory.checkBands("work memory");
  return std::vector<float>(y.floats(), y.floats() + rows * layer.outputs);
}

// One row in double precision. Outputs that its level drops are zero, and so are the inputs.
std::vector<Estimate> estimateRow(const Routines& routines, const Layer& layer, const Batch& batch, size_t row) {
  const ProductShape& shape = layer.shape;
  const size_t level = batch.levels[row];
  std::vector<float> x(batch.x.begin() + static_cast<long>(row * layer.inputs),
                       batch.x.begin() + static_cast<long>((row + 1) * layer.inputs));
  if (!batch.normWeight.empty()) {
    // Rounding to int8 has cliffs, so it starts from the same bits; the norm is checked by itself.
    std::vector<float> normed(layer.inputs);
    routines.normalizeRow(x.data(), batch.normWeight.data(), layer.inputs, batch.epsilon, normed.data());
    x = normed;
  }
  const size_t sums = shape.cut == Cut::gated ? 2 * layer.outputs : layer.outputs;
  std::vector<Estimate> totals(sums);
  std::vector<double> blocksOf(sums, 0);
  size_t start = 0;
  for (const StoredChunk& chunk : layer.chunks) {
    const size_t columns = layer.columnsOf(chunk);
    const size_t blocks = (columns + shape.blockSize - 1) / shape.blockSize;
    std::vector<float> part = x;
    if (shape.cut == Cut::inputs) {
      part.clear();
      for (size_t g = 0; g < shape.groups; g++) {
        for (size_t i = 0; i < chunk.width; i++) part.push_back(x[g * layer.widest + start + i]);
      }
    }
    const bool kept = level <= chunk.level;
    const Quantized quantized = quantizePlainly(part.data(), columns, shape.blockSize);
    for (size_t n = 0; n < layer.rowsOf(chunk); n++) {
      const size_t output = shape.cut == Cut::inputs ? n : n / chunk.width * layer.widest + start + n % chunk.width;
      Estimate& total = totals[output];
      if (chunk.bias && (kept || shape.cut == Cut::inputs)) {
        total.value += chunk.bias[n];
        total.error += std::fabs(chunk.bias[n]);
      }
      if (!kept) continue;
      blocksOf[output] += static_cast<double>(blocks);
      for (size_t block = 0; block < blocks; block++) {
        int64_t dot = 0;
        for (size_t i = 0; i < shape.blockSize; i++) {
          const uint8_t byte = chunk.codes[((n * blocks + block) * shape.blockSize + i) / 2];
          dot += (static_cast<int64_t>(i % 2 == 0 ? byte & 15 : byte >> 4) - 8) * quantized.codes[block * shape.blockSize + i];
        }
        const double term = static_cast<double>(dot) * fromHalf(chunk.scales[n * blocks + block]) * quantized.scales[block];
        total.value += term;
        total.error += std::fabs(term);
      }
    }
    start += chunk.width;
  }
  // Products of scales below the smallest normal float lose bits of their own.
  for (size_t i = 0; i < sums; i++) {
    const double terms = blocksOf[i] + 5 + static_cast<double>(layer.chunks.size());
    totals[i].error = terms * (u * totals[i].error + 1e-38);
  }
  std::vector<Estimate> estimates(layer.outputs);
  for (size_t i = 0; i < layer.outputs; i++) {
    estimates[i] = totals[i];
    if (shape.cut == Cut::gated) {
      const Estimate &gate = totals[i], &up = totals[layer.outputs + i];
      const double activated = silu(gate.value);
      estimates[i].value = activated * up.value;
      estimates[i].error = 1.1 * gate.error * (std::fabs(up.value) + up.error) + std::fabs(activated) * up.error +
                           exponentialError * std::fabs(activated * up.value) + 1e-35 * (1 + std::fabs(up.value));
    }
    if (!batch.residual.empty()) {
      estimates[i].value += batch.residual[row * layer.outputs + i];
      estimates[i].error += u * (std::fabs(estimates[i].value) + estimates[i].error);
    }
  }
  return estimates;
}

// Whether a row computes an output.
bool keeps(const Layer& layer, size_t level, size_t output) {
  if (layer.shape.cut == Cut::inputs) return true;
  size_t channel = output % layer.widest;
  for (const StoredChunk& chunk : layer.chunks) {
    if (channel < chunk.width) return level <= chunk.level;
    channel -= chunk.width;
  }
  return false;
}

// The same rows with what their levels drop set to zero: the input of a masked run.
Batch masked(const Layer& layer, const Batch& batch) {
  Batch result = batch;
  if (layer.shape.cut != Cut::inputs) return result;
  for (size_t row = 0; row < batch.levels.size(); row++) {
    size_t start = 0;
    for (const StoredChunk& chunk : layer.chunks) {
      for (size_t g = 0; g < layer.shape.groups && batch.levels[row] > chunk.level; g++) {
        float* dropped = result.x.data() + row * layer.inputs + g * layer.widest + start;
        for (size_t i = 0; i < chunk.width; i++) dropped[i] = 0;
      }
      start += chunk.width;
    }
  }
  return result;
}

void checkProduct(Random& random, Cut cut, size_t blockSize, size_t rows) {
  const Layer layer = randomLayer(random, cut, blockSize);
  const Batch batch = randomBatch(random, layer, rows);
  static constexpr const char* cuts[] = {"outputs", "gated", "inputs"};
  int length = std::snprintf(currentCase, sizeof(currentCase), "%s cut, %zu groups, uncut %zu, blocks of %zu, %zu rows%s%s%s, chunks",
                             cuts[static_cast<int>(cut)], layer.shape.groups, layer.shape.uncut, blockSize, rows,
                             layer.chunks[0].bias ? ", bias" : "", batch.normWeight.empty() ? "" : ", norm",
                             batch.residual.empty() ? "" : ", residual");
  for (const StoredChunk& chunk : layer.chunks) {
    length += std::snprintf(currentCase + length, sizeof(currentCase) - static_cast<size_t>(length), " %zu@%zu", chunk.width,
                            chunk.level);
  }
  const Batch maskedBatch = masked(layer, batch);
  const Parallel forward{nullptr, runForward};
  forEachSet([&](const Routines& routines) {
    PrefixProduct* product = PrefixProduct::create(routines, layer.shape, layer.chunks.data(), layer.chunks.size());
    check(product && product->inputs() == layer.inputs && product->outputs() == layer.outputs &&
              product->levels() == layer.levels,
          "%s: extents", routines.name);
    if (!product) return;
    const std::vector<float> y = run(*product, layer, batch, 0, rows, false, forward, 0x00);

    for (size_t row = 0; row < rows; row += rows > 17 ? 7 : 1) {
      const std::vector<Estimate> wanted = estimateRow(routines, layer, batch, row);
      for (size_t i = 0; i < layer.outputs; i++) {
        if (!keeps(layer, batch.levels[row], i)) continue;
        const float found = y[row * layer.outputs + i];
        check(within(found, wanted[i]), "%s: row %zu, output %zu: %.9g, wanted %.9g ± %.2g", routines.name, row, i,
              static_cast<double>(found), wanted[i].value, wanted[i].error);
      }
      const std::vector<float> alone = run(*product, layer, batch, row, row + 1, false, forward, 0xff);
      check(sameBits(alone.data(), y.data() + row * layer.outputs, layer.outputs), "%s: row %zu differs alone",
            routines.name, row);
    }

    const std::vector<float> whole = run(*product, layer, maskedBatch, 0, rows, true, forward, 0xff);
    for (size_t row = 0; row < rows; row++) {
      bool same = true;
      for (size_t i = 0; i < layer.outputs; i++) {
        const size_t at = row * layer.outputs + i;
        const float wanted = keeps(layer, batch.levels[row], i) ? whole[at]
                             : batch.residual.empty()           ? 0.0f
                                                                : batch.residual[at] + 0.0f;
        same = same && sameBits(&wanted, &y[at], 1);
      }
      check(same, "%s: prefix and mask differ in row %zu", routines.name, row);
    }

    const std::vector<float> backward = run(*product, layer, batch, 0, rows, false, {nullptr, runBackward}, 0xff);
    check(sameBits(backward.data(), y.data(), y.size()), "%s: the order of tasks shows", routines.name);
    for (size_t threads : {size_t{1}, size_t{2}, size_t{4}}) {
      const std::vector<float> threaded = run(*product, layer, batch, 0, rows, false, {&threads, runThreaded}, 0x77);
      check(sameBits(threaded.data(), y.data(), y.size()), "%s: %zu threads show", routines.name, threads);
    }
    delete product;
  });
}

// ---- Memory

size_t mappedPages() {
  size_t pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%zu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return pages;
}

void checkMemory(Random& random) {
  std::snprintf(currentCase, sizeof(currentCase), "weights' memory");
  std::vector<uint8_t*> taken;
  std::vector<size_t> sizes;
  size_t before = 0;
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < 40; i++) {
      const size_t bytes = random.chance(10) ? random.between(1, size_t{1} << 27) : random.between(1, size_t{1} << 20);
      auto* address = static_cast<uint8_t*>(allocateWeights(bytes));
      check(address && reinterpret_cast<uintptr_t>(address) % 64 == 0 && address[0] == 0 && address[bytes - 1] == 0,
            "%zu bytes are not there, aligned and zero", bytes);
      if (!address) continue;
      address[0] = address[bytes - 1] = static_cast<uint8_t>(i + 1);
      taken.push_back(address);
      sizes.push_back(bytes);
    }
    bool whole = true;
    for (size_t i = 0; i < taken.size(); i++) {
      whole = whole && taken[i][0] == i + 1 && taken[i][sizes[i] - 1] == i + 1;
    }
    check(whole, "two allocations overlap");
    while (!taken.empty()) {
      std::swap(taken[random.below(taken.size())], taken.back());
      freeWeights(taken.back());
      taken.pop_back();
    }
    sizes.clear();
    if (round == 0) before = mappedPages();  // what this program keeps for itself is there by now
  }
  // One slab is 16384 pages.
  check(mappedPages() < before + 8192, "%zu pages are mapped after all was freed, %zu before", mappedPages(), before);
}

void checkRoutines(Random& random, size_t blockSize) {
  std::snprintf(currentCase, sizeof(currentCase), "routines, blocks of %zu", blockSize);
  checkQuantizing(random, blockSize);
  checkTile(random, blockSize);
  checkNorm(random);
  checkGate(random);
  checkRotation(random);
  checkAttention(random);
}

constexpr size_t blockSizes[] = {32, 64, 128};
constexpr Cut cuts[] = {Cut::outputs, Cut::gated, Cut::inputs};

void runTable(Random& random) {
  for (const size_t blockSize : blockSizes) {
    for (int i = 0; i < 20; i++) checkRoutines(random, blockSize);
    for (const Cut cut : cuts) {
      for (size_t rows = 1; rows <= 17; rows++) checkProduct(random, cut, blockSize, rows);
      for (const size_t rows : {64, 100}) checkProduct(random, cut, blockSize, rows);
    }
  }
}

bool readNumber(const char* text, uint64_t* number) {
  char* end = nullptr;
  *number = text ? std::strtoull(text, &end, 10) : 0;
  return text && *text && *end == '\0';
}

}  // namespace

int main(int count, char** arguments) {
  uint64_t steps = 0, seed = 1;
  for (int i = 1; i < count; i += 2) {
    const bool isSteps = std::strcmp(arguments[i], "--steps") == 0, isSeed = std::strcmp(arguments[i], "--seed") == 0;
    if ((!isSteps && !isSeed) || !readNumber(arguments[i + 1], isSteps ? &steps : &seed)) {
      std::fprintf(stderr, "Cannot read %s: wanted --steps N, --seed S\n", arguments[i]);
      return 2;
    }
  }
  std::printf("instruction sets:");
  forEachSet([](const Routines& routines) { std::printf(" %s", routines.name); });
  std::printf("\n");

  Random random{seed};
  checkMemory(random);
  if (steps == 0) runTable(random);
  for (uint64_t step = 0; step < steps; step++) {
    const size_t blockSize = blockSizes[random.below(3)];
    checkRoutines(random, blockSize);
    checkProduct(random, cuts[random.below(3)], blockSize, random.chance(50) ? random.between(18, 100) : random.between(1, 17));
  }
  std::printf("%" PRIu64 " checks with seed %" PRIu64 ", %" PRIu64 " failed\n", checks, seed, failures);
  return failures == 0 ? 0 : 1;
}

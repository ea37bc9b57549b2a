// The routines, one by one.
#pragma once

#include <cinttypes>

#include "checks.h"

namespace espalier {
namespace {

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
  if (random.chance(4))
    std::memset(values.data(), random.chance(2) ? 127 : -127, values.size());  // sums at their limits
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
      check(within(sums.floats()[i], wanted), "%s: sum of row %zu of %zu, output %zu: %.9g, wanted %.9g ± %.2g",
            routines.name, row, rows, output, static_cast<double>(sums.floats()[i]), wanted.value, wanted.error);
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
      check(sums.floats()[i] == static_cast<float>(wanted),
            "%s: integer sum of row %zu, output %zu: %.9g, wanted %" PRId64, routines.name, i / tileRows, i % tileRows,
            static_cast<double>(sums.floats()[i]), wanted);
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
    routines.attendHead({queryRows.data(), outputRows.data(), visible.data(), rows, keys.data(), values.data(), width,
                         scale, scores.floats(), stride});
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

void checkRoutines(Random& random, size_t blockSize) {
  std::snprintf(currentCase, sizeof(currentCase), "routines, blocks of %zu", blockSize);
  checkQuantizing(random, blockSize);
  checkTile(random, blockSize);
  checkNorm(random);
  checkGate(random);
  checkRotation(random);
  checkAttention(random);
}

}  // namespace
}  // namespace espalier

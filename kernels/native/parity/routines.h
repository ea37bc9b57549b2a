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
  const size_t groupRows = random.between(1, maxRows), row = random.below(groupRows);
  forEachSet([&](const Routines& routines) {
    Guarded codes(blocks * blockSize * groupRows, 0x77), scales(blocks * groupRows * 4, 0x77),
        offsets(blocks * groupRows * 4, 0x77);
    auto* allCodes = static_cast<int8_t*>(codes.data());
    auto* allOffsets = static_cast<int32_t*>(offsets.data());
    routines.quantizeRow(x.data(), columns, blockSize, groupRows, allCodes + 8 * row, scales.floats() + row,
                         allOffsets + row);
    codes.checkBands("codes");
    scales.checkBands("scales");
    offsets.checkBands("offsets");
    bool othersAreLeft = true;
    for (size_t i = 0; i < blocks * blockSize * groupRows; i++) {
      othersAreLeft = othersAreLeft && (i / 8 % groupRows == row || allCodes[i] == 0x77);
    }
    for (size_t i = 0; i < blocks * groupRows; i++) {
      othersAreLeft = othersAreLeft && (i % groupRows == row || allOffsets[i] == 0x77777777);
    }
    check(othersAreLeft, "%s: codes of other rows than %zu of %zu were written", routines.name, row, groupRows);
    std::vector<int8_t> found;
    std::vector<float> foundScales;
    for (size_t i = 0; i < blocks * blockSize; i++) {
      found.push_back(allCodes[(i / 8 * groupRows + row) * 8 + i % 8]);
    }
    for (size_t block = 0; block < blocks; block++) foundScales.push_back(scales.floats()[block * groupRows + row]);
    check(sameBits(foundScales.data(), wanted.scales.data(), blocks), "%s: scales of %zu columns", routines.name,
          columns);
    for (size_t block = 0; block < blocks; block++) {
      int32_t sum = 0;
      bool same = true;
      for (size_t i = block * blockSize; i < (block + 1) * blockSize; i++) {
        same = same && found[i] == wanted.codes[i / 8 * 8 + order[i % 8]];
        sum += wanted.codes[i];
      }
      check(same, "%s: codes of block %zu of %zu columns", routines.name, block, columns);
      check(allOffsets[block * groupRows + row] == -8 * sum, "%s: offset of block %zu of %zu columns", routines.name,
            block, columns);
    }
  });
}

// Weights as tile_layout.h says, said once more: scales of two blocks, then their codes. `codes` are [tiles][blocks]
// [blockSize / 8][16][4], `scales` [tiles][blocks][16].
std::vector<uint8_t> layOut(size_t tiles, size_t blocks, size_t blockSize, const std::vector<uint8_t>& codes,
                            const std::vector<uint16_t>& scales) {
  const size_t codeBytes = blockSize / 2 * tileRows;
  std::vector<uint8_t> weights;
  for (size_t tile = 0; tile < tiles; tile++) {
    for (size_t first = 0; first < blocks; first += 2) {
      for (size_t block = first; block < first + 2; block++) {
        for (size_t i = 0; i < tileRows; i++) {
          const uint16_t scale = block < blocks ? scales[(tile * blocks + block) * tileRows + i] : 0;
          weights.push_back(scale & 255);
          weights.push_back(static_cast<uint8_t>(scale >> 8));
        }
      }
      for (size_t block = first; block < first + 2 && block < blocks; block++) {
        const auto from = codes.begin() + static_cast<std::ptrdiff_t>((tile * blocks + block) * codeBytes);
        weights.insert(weights.end(), from, from + static_cast<std::ptrdiff_t>(codeBytes));
      }
    }
  }
  return weights;
}

void checkTiles(Random& random, size_t blockSize) {
  const bool atHand = random.chance(2);
  const size_t tiles = random.between(1, random.chance(2) ? pairTiles : maxTiles),
               blocks = random.chance(4) ? random.between(15, 34) : random.between(1, 6);
  const size_t rows = random.between(1, maxRows), groupRows = random.between(rows, maxRows);
  const std::vector<uint8_t> codes = random.bytes(tiles * blocks * blockSize / 2 * tileRows);
  const std::vector<uint16_t> scales = random.halves(tiles * blocks * tileRows);
  std::vector<int8_t> values(groupRows * blocks * blockSize);
  for (int8_t& value : values) value = static_cast<int8_t>(static_cast<int>(random.below(255)) - 127);
  if (random.chance(4))
    std::memset(values.data(), random.chance(2) ? 127 : -127, values.size());  // sums at their limits
  const std::vector<float> activationScales = random.floats(groupRows * blocks);
  std::vector<int32_t> offsets(groupRows * blocks);
  for (int32_t& offset : offsets) offset = static_cast<int32_t>(random.below(260096)) - 130048;
  const std::vector<float> before = random.floats(tiles * maxRows * tileRows);

  const auto dot = [&](size_t row, size_t block, size_t output, size_t tileBlock) {
    int64_t sum = offsets[block * groupRows + row];
    for (size_t eight = 0; eight < blockSize / 8; eight++) {
      for (size_t i = 0; i < 4; i++) {
        const int64_t byte = codes[((tileBlock * blockSize / 8 + eight) * tileRows + output) * 4 + i];
        const int8_t* eightValues = values.data() + ((block * blockSize / 8 + eight) * groupRows + row) * 8;
        sum += byte % 16 * eightValues[i] + byte / 16 * eightValues[4 + i];
      }
    }
    return sum;
  };
  const std::vector<uint8_t> weights = layOut(tiles, blocks, blockSize, codes, scales);
  std::vector<float> fused;  // what every set gives that rounds a product and its sum once
  forEachSet([&](const Routines& routines) {
    TileProduct product{};
    product.weights = weights.data();
    product.tiles = tiles;
    product.atHand = atHand;
    product.blocks = blocks;
    product.blockSize = blockSize;
    product.activations = values.data();
    product.activationScales = activationScales.data();
    product.offsets = offsets.data();
    product.groupRows = groupRows;
    Guarded sums(before.size() * 4, 0);
    product.sums = sums.floats();
    std::memcpy(sums.data(), before.data(), before.size() * 4);
    routines.multiplyTiles(product, rows);
    sums.checkBands("sums");
    for (size_t i = 0; i < before.size(); i++) {
      const size_t tile = i / (maxRows * tileRows), row = i / tileRows % maxRows, output = i % tileRows;
      if (row >= rows) {
        check(sums.floats()[i] == before[i], "%s: a sum of row %zu of %zu was written", routines.name, row, rows);
        continue;
      }
      Estimate wanted{before[i], std::fabs(before[i])};
      for (size_t block = 0; block < blocks; block++) {
        const size_t tileBlock = tile * blocks + block;
        const double term = static_cast<double>(dot(row, block, output, tileBlock)) *
                            fromHalf(scales[tileBlock * tileRows + output]) * activationScales[block * groupRows + row];
        wanted.value += term;
        wanted.error += std::fabs(term);
      }
      wanted.error *= (static_cast<double>(blocks) + 5) * u;
      check(within(sums.floats()[i], wanted),
            "%s: sum of tile %zu, row %zu of %zu, output %zu: %.9g, wanted %.9g ± %.2g", routines.name, tile, row, rows,
            output, static_cast<double>(sums.floats()[i]), wanted.value, wanted.error);
    }
    if (std::strcmp(routines.name, "portable") != 0) {
      if (fused.empty()) fused.assign(sums.floats(), sums.floats() + before.size());
      check(sameBits(fused.data(), sums.floats(), before.size()), "%s: sums differ from another set's", routines.name);
    }
    // Blocks with scales of 1 show the integers themselves.
    const std::vector<uint16_t> ones(tiles * tileRows, 0x3c00);
    const std::vector<float> unit(groupRows, 1.0f);
    const std::vector<uint8_t> single = layOut(tiles, 1, blockSize, codes, ones);
    product.weights = single.data();
    product.activationScales = unit.data();
    product.blocks = 1;
    std::memset(sums.data(), 0, before.size() * 4);
    routines.multiplyTiles(product, rows);
    for (size_t i = 0; i < before.size(); i++) {
      const size_t tile = i / (maxRows * tileRows), row = i / tileRows % maxRows, output = i % tileRows;
      const int64_t wanted = row < rows ? dot(row, 0, output, tile) : 0;
      check(sums.floats()[i] == static_cast<float>(wanted),
            "%s: integer sum of tile %zu, row %zu, output %zu: %.9g, wanted %" PRId64, routines.name, tile, row, output,
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

// The half next to a number, of two the even one, in the arithmetic of doubles.
double nearestHalf(float x) {
  if (!std::isfinite(x)) return x;
  const double magnitude = std::fabs(static_cast<double>(x));
  const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  const double step = std::ldexp(1.0, exponent - 10), nearest = std::nearbyint(magnitude / step) * step;
  return std::copysign(nearest > 65504 ? HUGE_VAL : nearest, static_cast<double>(x));
}

void checkHalves(Random& random) {
  const size_t count = random.between(1, 70);
  std::vector<float> x = random.floats(count, 8);
  for (float& value : x) {
    // Of every size from what becomes zero to what becomes infinity; now and then between two halves.
    if (random.chance(2)) value = std::ldexp(value, static_cast<int>(random.below(44)) - 28);
    if (random.chance(4)) {
      const Half half = random.halves(1)[0];
      value = static_cast<float>((fromHalf(half) + fromHalf(half + 1)) / 2);
    }
  }
  if (random.chance(3)) x[random.below(count)] = random.chance(2) ? NAN : -INFINITY;
  forEachSet([&](const Routines& routines) {
    Guarded y(count * sizeof(Half), 0x77);
    const auto* halves = static_cast<const Half*>(y.data());
    routines.toHalves(x.data(), count, static_cast<Half*>(y.data()));
    y.checkBands("halves");
    for (size_t i = 0; i < count; i++) {
      const double found = fromHalf(halves[i]), wanted = nearestHalf(x[i]);
      const bool same =
          std::isnan(x[i]) ? std::isnan(found) : found == wanted && std::signbit(found) == std::signbit(wanted);
      check(same, "%s: %.9g became %.9g, wanted %.9g", routines.name, static_cast<double>(x[i]), found, wanted);
    }
  });
}

void checkRotation(Random& random) {
  const size_t pairs = random.between(1, maxHeadWidth / 2), width = 2 * pairs;
  const std::vector<float> x = random.floats(width, 4);
  const float scale = random.chance(2) ? 1.0f : 0.125f * (1 + random.uniform());
  std::vector<float> cosines, sines, first;
  for (size_t i = 0; i < pairs; i++) {
    const double angle = random.below(4096) * std::pow(10.0, random.uniform() - 1);
    cosines.push_back(static_cast<float>(std::cos(angle)));
    sines.push_back(static_cast<float>(std::sin(angle)));
  }
  const bool turns = !random.chance(4);
  forEachSet([&](const Routines& routines) {
    Guarded y(width * 4, 0x77);
    routines.rotateHead(x.data(), turns ? cosines.data() : nullptr, sines.data(), width, scale, y.floats());
    y.checkBands("rotated head");
    for (size_t i = 0; i < width; i++) {
      const double s = scale, c = turns ? cosines[i / 2] : 1, d = turns ? sines[i / 2] : 0;
      const double own = s * c * x[i], other = s * d * x[i ^ 1];
      // Scaled, multiplied, added: three roundings of either product.
      const Estimate wanted{i % 2 == 0 ? own - other : own + other, 3.1 * u * (std::fabs(own) + std::fabs(other))};
      check(within(y.floats()[i], wanted), "%s: rotated component %zu", routines.name, i);
    }
    if (first.empty()) first.assign(y.floats(), y.floats() + width);
    check(sameBits(first.data(), y.floats(), width), "%s: rotation differs from another set's", routines.name);
  });
}

void checkRoutines(Random& random, size_t blockSize) {
  std::snprintf(currentCase, sizeof(currentCase), "routines, blocks of %zu", blockSize);
  checkQuantizing(random, blockSize);
  checkTiles(random, blockSize);
  checkNorm(random);
  checkGate(random);
  checkHalves(random);
  checkRotation(random);
}

}  // namespace
}  // namespace espalier

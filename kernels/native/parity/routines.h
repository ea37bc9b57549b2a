// The routines, one by one.
#pragma once

#include <algorithm>
#include <cinttypes>
#include <numeric>

#include "checks.h"

namespace espalier {
namespace {

// Where the code lies that is number `i` of a row's, in a group of rows.
size_t placeOf(Layout layout, size_t groupRows, size_t blockSize, size_t row, size_t i) {
  const size_t together = layout == Layout::eights ? 8 : blockSize;
  return (i / together * groupRows + row) * together + i % together;
}

void checkQuantizing(Random& random, size_t blockSize) {
  constexpr size_t order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  const size_t columns = random.between(1, 4 * blockSize + 3);
  const size_t blocks = (columns + blockSize - 1) / blockSize;
  std::vector<float> x = activations(random, columns);
  spoil(random, x);
  const Quantized wanted = quantizePlainly(x.data(), columns, blockSize);
  const size_t groupRows = random.between(1, random.chance(4) ? maxRows : fewRows), row = random.below(groupRows);
  const Layout layout = random.chance(2) ? Layout::eights : Layout::blocks;
  const auto at = [&](size_t i) { return placeOf(layout, groupRows, blockSize, row, i); };
  forEachSet([&](const Routines& routines) {
    Guarded codes(blocks * blockSize * groupRows, 0x77), scales(blocks * groupRows * 4, 0x77),
        offsets(blocks * groupRows * 4, 0x77);
    auto* allCodes = static_cast<int8_t*>(codes.data());
    auto* allOffsets = static_cast<int32_t*>(offsets.data());
    routines.quantizeRow(x.data(), columns, blockSize, groupRows, at(8) - at(0), allCodes + at(0),
                         scales.floats() + row, allOffsets + row);
    codes.checkBands("codes");
    scales.checkBands("scales");
    offsets.checkBands("offsets");
    std::vector<int8_t> found;
    for (size_t i = 0; i < blocks * blockSize; i++) {
      found.push_back(allCodes[at(i)]);
      allCodes[at(i)] = 0x77;
    }
    bool othersAreLeft = true;
    for (size_t i = 0; i < blocks * blockSize * groupRows; i++) othersAreLeft = othersAreLeft && allCodes[i] == 0x77;
    for (size_t i = 0; i < blocks * groupRows; i++) {
      othersAreLeft = othersAreLeft && (i % groupRows == row || allOffsets[i] == 0x77777777);
    }
    check(othersAreLeft, "%s: codes of other rows than %zu of %zu were written", routines.name, row, groupRows);
    std::vector<float> foundScales;
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

// Rows of activations, quantized: codes [rows][columns] in the order in which bytes unfold, scales and offsets
// [rows][blocks].
struct QuantizedRows {
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<int32_t> offsets;
};

// Multiplies rows as a way of a set takes them, group by group, in each beside up to `idle` rows that do not take part.
// Sums are [tiles][rows][16].
void multiplyGroups(const Grouping& grouping, TileProduct product, size_t rows, const QuantizedRows& from, size_t idle,
                    std::vector<float>& sums) {
  const size_t blocks = product.blocks, blockSize = product.blockSize, columns = blocks * blockSize;
  for (size_t first = 0; first < rows; first += grouping.rows) {
    const size_t some = std::min(grouping.rows, rows - first), groupRows = std::min(grouping.rows, some + idle);
    std::vector<int8_t> codes(groupRows * columns, 0x55);
    std::vector<float> scales(groupRows * blocks, NAN);
    std::vector<int32_t> offsets(groupRows * blocks, 0x55555555);
    Guarded groupSums(product.tiles * groupRows * tileRows * sizeof(float), 0x55);
    for (size_t r = 0; r < some; r++) {
      for (size_t i = 0; i < columns; i++) {
        codes[placeOf(grouping.layout, groupRows, blockSize, r, i)] = from.codes[(first + r) * columns + i];
      }
      for (size_t block = 0; block < blocks; block++) {
        scales[block * groupRows + r] = from.scales[(first + r) * blocks + block];
        offsets[block * groupRows + r] = from.offsets[(first + r) * blocks + block];
      }
    }
    product.activations = codes.data();
    product.activationScales = scales.data();
    product.offsets = offsets.data();
    product.groupRows = groupRows;
    product.sums = groupSums.floats();
    const auto eachRow = [&](auto&& visit) {
      for (size_t tile = 0; tile < product.tiles; tile++) {
        for (size_t r = 0; r < groupRows; r++) {
          visit(groupSums.floats() + (tile * groupRows + r) * tileRows, tile * rows + first + r, r < some);
        }
      }
    };
    eachRow([&](float* ofGroup, size_t row, bool active) {
      if (active) std::memcpy(ofGroup, sums.data() + row * tileRows, sizeof(float[tileRows]));
    });
    grouping.multiplyTiles(product, some);
    groupSums.checkBands("sums");
    eachRow([&](float* ofGroup, size_t row, bool active) {
      if (active) {
        std::memcpy(sums.data() + row * tileRows, ofGroup, sizeof(float[tileRows]));
      } else {
        const auto* bytes = reinterpret_cast<const uint8_t*>(ofGroup);
        check(std::all_of(bytes, bytes + sizeof(float[tileRows]), [](uint8_t byte) { return byte == 0x55; }),
              "a sum of a row was written that takes no part");
      }
    });
  }
}

void checkTiles(Random& random, size_t blockSize) {
  const bool manyRows = random.chance(8);
  const size_t tiles = random.between(1, manyRows || random.chance(2) ? pairTiles + 1 : maxTiles),
               blocks = !manyRows && random.chance(4) ? random.between(15, 34) : random.between(1, 6);
  const size_t rows = random.between(1, manyRows ? maxRows + 3 : fewRows), idle = random.below(4);
  const size_t columns = blocks * blockSize;
  const std::vector<uint8_t> codes = random.bytes(tiles * columns / 2 * tileRows);
  const std::vector<uint16_t> scales = random.halves(tiles * blocks * tileRows);
  QuantizedRows from;
  from.codes.resize(rows * columns);
  for (int8_t& value : from.codes) value = static_cast<int8_t>(static_cast<int>(random.below(255)) - 127);
  if (random.chance(4))
    std::memset(from.codes.data(), random.chance(2) ? 127 : -127, from.codes.size());  // sums at their limits
  from.scales = random.floats(rows * blocks);
  for (size_t block = 0; block < rows * blocks; block++) {
    const int8_t* ofBlock = from.codes.data() + block * blockSize;
    from.offsets.push_back(-8 * std::accumulate(ofBlock, ofBlock + blockSize, 0));
  }
  const std::vector<float> before = random.floats(tiles * rows * tileRows);

  const auto dot = [&](size_t row, size_t block, size_t output, size_t tileBlock) {
    int64_t sum = 0;
    for (size_t eight = 0; eight < blockSize / 8; eight++) {
      const int8_t* values = from.codes.data() + row * columns + block * blockSize + 8 * eight;
      for (size_t i = 0; i < 4; i++) {
        const int64_t byte = codes[((tileBlock * blockSize / 8 + eight) * tileRows + output) * 4 + i];
        sum += (byte % 16 - 8) * values[i] + (byte / 16 - 8) * values[4 + i];
      }
    }
    return sum;
  };
  std::vector<Estimate> wanted;
  for (size_t i = 0; i < before.size(); i++) {
    const size_t tile = i / (rows * tileRows), row = i / tileRows % rows, output = i % tileRows;
    Estimate sum{before[i], std::fabs(before[i])};
    for (size_t block = 0; block < blocks; block++) {
      const size_t tileBlock = tile * blocks + block;
      const double term = static_cast<double>(dot(row, block, output, tileBlock)) *
                          fromHalf(scales[tileBlock * tileRows + output]) * from.scales[row * blocks + block];
      sum.value += term;
      sum.error += std::fabs(term);
    }
    sum.error *= (static_cast<double>(blocks) + 5) * u;
    wanted.push_back(sum);
  }
  // The first block alone, with scales of 1, shows the integers themselves.
  QuantizedRows firstBlocks;
  for (size_t row = 0; row < rows; row++) {
    const auto start = from.codes.begin() + static_cast<std::ptrdiff_t>(row * columns);
    firstBlocks.codes.insert(firstBlocks.codes.end(), start, start + static_cast<std::ptrdiff_t>(blockSize));
    firstBlocks.scales.push_back(1.0f);
    firstBlocks.offsets.push_back(from.offsets[row * blocks]);
  }
  std::vector<uint8_t> firstCodes;
  for (size_t tile = 0; tile < tiles; tile++) {
    const auto start = codes.begin() + static_cast<std::ptrdiff_t>(tile * columns / 2 * tileRows);
    firstCodes.insert(firstCodes.end(), start, start + static_cast<std::ptrdiff_t>(blockSize / 2 * tileRows));
  }
  const std::vector<uint8_t> weights = layOut(tiles, blocks, blockSize, codes, scales);
  const std::vector<uint8_t> single =
      layOut(tiles, 1, blockSize, firstCodes, std::vector<uint16_t>(tiles * tileRows, 0x3c00));

  std::vector<float> fused;  // what every set gives that rounds a product and its sum once
  forEachSet([&](const Routines& routines) {
    for (const Grouping* grouping : {&routines.few, &routines.many}) {
      const char* way = grouping == &routines.few ? "few" : "many";
      TileProduct product{};
      product.weights = weights.data();
      product.tiles = tiles;
      product.blocks = blocks;
      product.blockSize = blockSize;
      std::vector<float> sums = before;
      multiplyGroups(*grouping, product, rows, from, idle, sums);
      for (size_t i = 0; i < sums.size(); i++) {
        check(within(sums[i], wanted[i]),
              "%s, %s: sum of tile %zu, row %zu of %zu, output %zu: %.9g, wanted %.9g ± %.2g", routines.name, way,
              i / (rows * tileRows), i / tileRows % rows, rows, i % tileRows, static_cast<double>(sums[i]),
              wanted[i].value, wanted[i].error);
      }
      if (std::strcmp(routines.name, "portable") != 0) {
        if (fused.empty()) fused = sums;
        check(sameBits(fused.data(), sums.data(), sums.size()), "%s, %s: sums differ from another set's", routines.name,
              way);
      }
      product.weights = single.data();
      product.blocks = 1;
      std::fill(sums.begin(), sums.end(), 0.0f);
      multiplyGroups(*grouping, product, rows, firstBlocks, idle, sums);
      for (size_t i = 0; i < sums.size(); i++) {
        const size_t tile = i / (rows * tileRows), row = i / tileRows % rows, output = i % tileRows;
        const int64_t integer = dot(row, 0, output, tile * blocks);
        check(sums[i] == static_cast<float>(integer),
              "%s, %s: integer sum of tile %zu, row %zu, output %zu: %.9g, wanted %" PRId64, routines.name, way, tile,
              row, output, static_cast<double>(sums[i]), integer);
      }
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

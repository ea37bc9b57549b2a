// Scans of random blocks and lanes: against plain loops that carry their rounding errors along, and against themselves
// cut, alone, masked and on threads.
#pragma once

#include <limits>

#include "../lane_scan.h"
#include "checks.h"
#include "tasks.h"

namespace espalier {
namespace {

// Float arithmetic in double precision: every operation rounds once. The slack covers that its rounding is relative to
// the float result, and products below the smallest normal float.
constexpr double rounding = 1.0001 * u;
constexpr double smallest = 1e-38;

Estimate exactly(float value) { return {value, 0}; }

Estimate operator+(const Estimate& a, const Estimate& b) {
  const double sum = a.value + b.value, error = a.error + b.error;
  return {sum, error + rounding * (std::fabs(sum) + error)};
}

Estimate operator*(const Estimate& a, const Estimate& b) {
  const double product = a.value * b.value;
  const double error = std::fabs(a.value) * b.error + std::fabs(b.value) * a.error + a.error * b.error;
  return {product, error + rounding * (std::fabs(product) + error) + smallest};
}

// The C library's exp and log1p are right to an ulp or two.
Estimate exponentialOf(const Estimate& x) {
  const double value = std::exp(x.value);
  return {value, value * (std::expm1(x.error) + 4 * rounding) + smallest};
}

Estimate softplus(const Estimate& x) {
  const double value = std::fmax(x.value, 0.0) + std::log1p(std::exp(-std::fabs(x.value)));
  return {value, x.error + 8 * rounding * value + smallest};  // its slope is at most 1
}

// The slope of silu is at most 1.1; the exponential stops at 88.
Estimate siluOf(const Estimate& x) {
  const double value = silu(x.value);
  return {value, 1.1 * x.error + exponentialError * std::fabs(value) + 1e-35};
}

Estimate clip(const Estimate& x, float least, float greatest) {
  return {std::isnan(x.value) ? NAN : std::fmin(std::fmax(x.value, least), greatest), x.error};
}

struct ScanBlock {
  ScanShape shape;
  std::vector<float> convX, convXBias, convBc, convBcBias, aLog, deltaBias, skip, norm;

  ScanParameters parameters() const {
    return {convX.data(),  convXBias.empty() ? nullptr : convXBias.data(),
            convBc.data(), convBcBias.empty() ? nullptr : convBcBias.data(),
            aLog.data(),   deltaBias.data(),
            skip.data(),   norm.data()};
  }
};

ScanBlock randomBlock(Random& random, bool large) {
  ScanBlock block;
  const size_t groups = random.between(1, 3);
  const size_t channels = random.between(1, large ? 70 : 20), states = random.between(1, large ? 130 : 20);
  const bool narrow = random.chance(4);
  ScanShape& shape = block.shape;
  shape.heads = groups * random.between(1, large ? 12 : 3);
  shape.channels = channels;
  shape.fullChannels = channels + (narrow ? random.below(9) : 0);
  shape.groups = groups;
  shape.states = states;
  shape.fullStates = states + (narrow ? random.below(9) : 0);
  shape.taps = random.between(1, 5);
  shape.skipPerChannel = random.chance(2);
  const bool limited = random.chance(3);
  shape.leastDelta = limited ? 0.3f : 0;
  shape.greatestDelta = limited ? 1.2f : std::numeric_limits<float>::infinity();
  shape.epsilon = 1e-5f;
  const size_t x = shape.heads * shape.fullChannels, bc = 2 * groups * shape.fullStates;
  const bool biased = random.chance(2);
  block.convX = random.floats(x * shape.taps);
  block.convXBias = random.floats(biased ? x : 0);
  block.convBc = random.floats(bc * shape.taps);
  block.convBcBias = random.floats(biased ? bc : 0);
  block.aLog = random.floats(shape.heads, 2);
  block.deltaBias = random.floats(shape.heads);
  block.skip = random.floats(shape.skipPerChannel ? x : shape.heads);
  block.norm = random.floats(x);
  return block;
}

// A sequence's widths, rows and states.
struct ScannedSequence {
  size_t rows, channels, states;
  std::vector<float> convX, convBc, state;

  bool sameStates(const ScannedSequence& other) const {
    return sameBits(convX.data(), other.convX.data(), convX.size()) &&
           sameBits(convBc.data(), other.convBc.data(), convBc.size()) &&
           sameBits(state.data(), other.state.data(), state.size());
  }
};

ScannedSequence randomScanned(Random& random, const ScanShape& shape, size_t rows) {
  ScannedSequence sequence;
  sequence.rows = rows;
  sequence.channels = random.chance(2) ? shape.channels : random.between(1, shape.channels);
  sequence.states = random.chance(2) ? shape.states : random.between(1, shape.states);
  const float size = random.chance(3) ? 0.0f : 1.0f;  // zeros at the beginning
  sequence.convX = random.floats((shape.taps - 1) * shape.heads * sequence.channels, size);
  sequence.convBc = random.floats((shape.taps - 1) * 2 * shape.groups * sequence.states, size);
  sequence.state = random.floats(shape.heads * sequence.states * sequence.channels, size);
  return sequence;
}

// Rows `first` to `last` of all sequences together; their states go on.
std::vector<float> runScan(const LaneScan& scan, const std::vector<float>& packed,
                           std::vector<ScannedSequence>& sequences, const Order& order, uint8_t fill) {
  ScanRun run{};
  std::vector<ScanLane> lanes;
  for (ScannedSequence& s : sequences) {
    lanes.push_back({s.rows, s.channels, s.states, s.convX.data(), s.convBc.data(), s.state.data()});
    run.rows += s.rows;
  }
  const size_t outputs = scan.shape().heads * scan.shape().channels;
  Guarded y(run.rows * outputs * 4, fill), memory(scan.workBytes(run.rows), fill);
  run.packed = packed.data();
  run.lanes = lanes.data();
  run.laneCount = lanes.size();
  run.y = y.floats();
  carryOut(order, LaneScan::loops, [&](const Parallel& parallel) { scan.run(run, memory.data(), parallel); });
  y.checkBands("y");
  memory.checkBands("work memory");
  return std::vector<float>(y.floats(), y.floats() + run.rows * outputs);
}

// One sequence in plain loops: y, and the state behind its last row.
struct PlainScan {
  std::vector<Estimate> y, state;
};

PlainScan scanPlainly(const ScanBlock& block, const float* packed, const ScannedSequence& sequence) {
  const ScanShape& shape = block.shape;
  const size_t H = shape.heads, P = shape.channels, G = shape.groups, N = shape.states, k = shape.taps;
  const auto exact = [](const std::vector<float>& from) {
    std::vector<Estimate> to;
    for (float value : from) to.push_back(exactly(value));
    return to;
  };
  PlainScan result;
  std::vector<Estimate> state = exact(sequence.state);
  const auto convolved = [&](size_t row, size_t place, const std::vector<float>& past, size_t pastWidth,
                             size_t pastPlace, const std::vector<float>& weights, const std::vector<float>& bias,
                             size_t channel) {
    Estimate sum = bias.empty() ? Estimate{} : exactly(bias[channel]);
    for (size_t tap = 0; tap < k; tap++) {
      const float input = row + tap < k - 1 ? past[(row + tap) * pastWidth + pastPlace]
                                            : packed[(row + tap - (k - 1)) * shape.columns() + place];
      sum = sum + exactly(weights[channel * k + tap]) * exactly(input);
    }
    return siluOf(sum);
  };
  for (size_t row = 0; row < sequence.rows; row++) {
    const float* values = packed + row * shape.columns();
    std::vector<Estimate> bc(2 * G * N);
    for (size_t g = 0; g < 2 * G; g++) {
      for (size_t n = 0; n < sequence.states; n++) {
        bc[g * N + n] = convolved(row, 2 * H * P + g * N + n, sequence.convBc, 2 * G * sequence.states,
                                  g * sequence.states + n, block.convBc, block.convBcBias, g * shape.fullStates + n);
      }
    }
    std::vector<Estimate> gated(H * P);
    for (size_t h = 0; h < H; h++) {
      const Estimate step = exactly(values[2 * H * P + 2 * G * N + h]) + exactly(block.deltaBias[h]);
      const Estimate delta = clip(softplus(step), shape.leastDelta, shape.greatestDelta);
      Estimate a = exponentialOf(exactly(block.aLog[h]));
      a.value = -a.value;
      const Estimate decay = exponentialOf(delta * a);
      const size_t group = h / (H / G);
      for (size_t p = 0; p < sequence.channels; p++) {
        const size_t channel = h * shape.fullChannels + p;
        const Estimate x = convolved(row, H * P + h * P + p, sequence.convX, H * sequence.channels,
                                     h * sequence.channels + p, block.convX, block.convXBias, channel);
        const Estimate scaled = delta * x;
        Estimate sum{};
        for (size_t n = 0; n < sequence.states; n++) {
          Estimate& s = state[(h * sequence.states + n) * sequence.channels + p];
          s = bc[group * N + n] * scaled + decay * s;
          sum = sum + bc[(G + group) * N + n] * s;
        }
        sum = sum + exactly(block.skip[shape.skipPerChannel ? channel : h]) * x;
        gated[h * P + p] = siluOf(exactly(values[h * P + p])) * sum;
      }
    }
    for (size_t g = 0; g < G; g++) {
      const size_t width = H / G * P;
      Estimate squares{};
      for (size_t i = 0; i < width; i++) squares = squares + gated[g * width + i] * gated[g * width + i];
      const double mean = squares.value / static_cast<double>(H / G * shape.fullChannels);
      const double variance = mean + static_cast<double>(shape.epsilon);
      // Half of what its square is off by, and a few operations.
      const double inverse = 1 / std::sqrt(variance);
      const double off = squares.error / static_cast<double>(H / G * shape.fullChannels) / variance;
      const Estimate scale{inverse, inverse * (off + 8 * rounding)};
      for (size_t i = 0; i < width; i++) {
        const size_t h = (g * width + i) / P, p = i % P;
        result.y.push_back(gated[g * width + i] * scale * exactly(block.norm[h * shape.fullChannels + p]));
      }
    }
  }
  result.state = state;
  return result;
}

// The block and its rows with what a sequence lacks set to zero, to be run at full width.
void maskTails(ScanBlock& block, std::vector<float>& packed, const ScannedSequence& sequence) {
  const ScanShape& shape = block.shape;
  const auto clear = [](std::vector<float>& values, size_t groups, size_t full, size_t kept, size_t each) {
    if (values.empty()) return;
    for (size_t g = 0; g < groups; g++) {
      for (size_t i = kept * each; i < full * each; i++) values[g * full * each + i] = 0;
    }
  };
  clear(block.convX, shape.heads, shape.fullChannels, sequence.channels, shape.taps);
  clear(block.convXBias, shape.heads, shape.fullChannels, sequence.channels, 1);
  clear(block.convBc, 2 * shape.groups, shape.fullStates, sequence.states, shape.taps);
  clear(block.convBcBias, 2 * shape.groups, shape.fullStates, sequence.states, 1);
  for (size_t row = 0; row < sequence.rows; row++) {
    float* values = packed.data() + row * shape.columns();
    for (size_t h = 0; h < 2 * shape.heads; h++, values += shape.channels) {
      for (size_t p = sequence.channels; p < shape.channels; p++) values[p] = 0;
    }
    for (size_t g = 0; g < 2 * shape.groups; g++, values += shape.states) {
      for (size_t n = sequence.states; n < shape.states; n++) values[n] = 0;
    }
  }
}

// Copies [groups][kept] into [groups][full], zeros behind.
std::vector<float> widened(const std::vector<float>& values, size_t kept, size_t full) {
  std::vector<float> wide(kept == 0 ? 0 : values.size() / kept * full, 0.0f);
  for (size_t i = 0; i < values.size(); i++) wide[i / kept * full + i % kept] = values[i];
  return wide;
}

// Holds a sequence's rows and the state behind them against plain loops.
void checkScanned(const Routines& routines, const ScanBlock& block, const float* packed, const ScannedSequence& before,
                  const ScannedSequence& after, const float* y) {
  const size_t outputs = block.shape.heads * block.shape.channels;
  const PlainScan wanted = scanPlainly(block, packed, before);
  for (size_t at = 0; at < before.rows * outputs; at++) {
    check(within(y[at], wanted.y[at]), "%s: output %zu of row %zu: %.9g, wanted %.9g ± %.2g", routines.name,
          at % outputs, at / outputs, static_cast<double>(y[at]), wanted.y[at].value, wanted.y[at].error);
    // The norm of a group with what is no number spreads it.
    if (at % block.shape.channels >= before.channels && !std::isnan(wanted.y[at].value))
      check(y[at] == 0, "%s: a channel that is not kept", routines.name);
  }
  for (size_t at = 0; at < wanted.state.size(); at++) {
    check(within(after.state[at], wanted.state[at]), "%s: state %zu", routines.name, at);
  }
}

void checkScan(Random& random, bool large = false) {
  const ScanBlock block = randomBlock(random, large);
  const ScanShape& shape = block.shape;
  const size_t columns = shape.columns(), outputs = shape.heads * shape.channels;
  std::vector<ScannedSequence> before;
  size_t rows = 0;
  for (size_t count = random.between(1, 4); count > 0; count--) {
    const size_t some = random.chance(3) ? random.between(2, large ? 70 : 40) : random.between(1, 3);
    before.push_back(randomScanned(random, shape, some));
    rows += some;
  }
  std::vector<float> packed = random.floats(rows * columns, 2);
  // Now and then something that is no number: any value, or a step, of which a row has few.
  const bool spoiled = random.chance(4);
  if (spoiled) {
    const size_t row = random.below(rows), behind = random.below(random.chance(2) ? shape.heads : columns);
    packed[row * columns + columns - 1 - behind] = NAN;
  }
  std::snprintf(
      currentCase, sizeof(currentCase),
      "scan of %zu heads of %zu of %zu channels, %zu groups of %zu of %zu states, %zu taps%s%s, %zu sequences, "
      "%zu rows, the first of %zu and %zu",
      shape.heads, shape.channels, shape.fullChannels, shape.groups, shape.states, shape.fullStates, shape.taps,
      block.convXBias.empty() ? "" : ", bias", shape.skipPerChannel ? ", skip per channel" : "", before.size(), rows,
      before[0].channels, before[0].states);
  forEachSet([&](const Routines& routines) {
    LaneScan* scan = LaneScan::create(routines, shape, block.parameters());
    check(scan, "%s: out of memory", routines.name);
    if (!scan) return;
    std::vector<ScannedSequence> after = before;
    const std::vector<float> y = runScan(*scan, packed, after, forward, 0x77);

    size_t first = 0;
    for (size_t i = 0; i < before.size(); i++) {
      const ScannedSequence& sequence = before[i];
      checkScanned(routines, block, packed.data() + first * columns, sequence, after[i], y.data() + first * outputs);

      const std::vector<float> own(packed.begin() + static_cast<long>(first * columns),
                                   packed.begin() + static_cast<long>((first + sequence.rows) * columns));
      std::vector<ScannedSequence> alone{sequence};
      const std::vector<float> single = runScan(*scan, own, alone, forward, 0xff);
      check(sameBits(single.data(), y.data() + first * outputs, single.size()) && alone[0].sameStates(after[i]),
            "%s: sequence %zu differs alone", routines.name, i);

      std::vector<ScannedSequence> cut{sequence};
      for (size_t done = 0; done < sequence.rows;) {
        cut[0].rows = std::min(sequence.rows - done, random.between(1, 9));
        const std::vector<float> piece(own.begin() + static_cast<long>(done * columns),
                                       own.begin() + static_cast<long>((done + cut[0].rows) * columns));
        const std::vector<float> part = runScan(*scan, piece, cut, forward, 0x00);
        check(sameBits(part.data(), single.data() + done * outputs, part.size()), "%s: sequence %zu differs in pieces",
              routines.name, i);
        done += cut[0].rows;
      }
      check(cut[0].sameStates(after[i]), "%s: the states of sequence %zu differ after pieces", routines.name, i);

      first += sequence.rows;
      if (spoiled) continue;  // a mask does not hold at zero what is multiplied by no number
      ScanBlock maskedBlock = block;
      std::vector<float> maskedRows = own;
      maskTails(maskedBlock, maskedRows, sequence);
      std::vector<ScannedSequence> masked{sequence};
      masked[0].channels = shape.channels;
      masked[0].states = shape.states;
      masked[0].convX = widened(sequence.convX, sequence.channels, shape.channels);
      masked[0].convBc = widened(sequence.convBc, sequence.states, shape.states);
      // [H][N'][P'] to [H][N'][P] to [H][N][P].
      masked[0].state = widened(widened(sequence.state, sequence.channels, shape.channels),
                                sequence.states * shape.channels, shape.states * shape.channels);
      LaneScan* maskedScan = LaneScan::create(routines, shape, maskedBlock.parameters());
      if (maskedScan) {
        const std::vector<float> full = runScan(*maskedScan, maskedRows, masked, forward, 0xff);
        check(sameBits(full.data(), single.data(), full.size()), "%s: sequence %zu differs from a masked one",
              routines.name, i);
        const std::vector<float> states = widened(widened(after[i].state, sequence.channels, shape.channels),
                                                  sequence.states * shape.channels, shape.states * shape.channels);
        check(sameBits(states.data(), masked[0].state.data(), states.size()), "%s: the state of a masked sequence",
              routines.name);
      }
      delete maskedScan;
    }

    std::vector<ScannedSequence> again = before;
    const std::vector<float> reversed = runScan(*scan, packed, again, backward, 0x00);
    check(sameBits(reversed.data(), y.data(), y.size()), "%s: the order of tasks shows", routines.name);
    for (size_t threads : {size_t{2}, size_t{4}}) {
      again = before;
      const std::vector<float> threaded = runScan(*scan, packed, again, teamOf(threads), 0x33);
      bool same = sameBits(threaded.data(), y.data(), y.size());
      for (size_t i = 0; i < before.size(); i++) same = same && again[i].sameStates(after[i]);
      check(same, "%s: %zu threads show", routines.name, threads);
    }
    delete scan;
  });
}

}  // namespace
}  // namespace espalier

// The state-space recurrence on the device: sequences go through it in random pieces, mixed with others, against double
// precision.
#pragma once

#include "../lane_scan.h"
#include "device_array.h"
#include "random_lanes.h"

namespace espalier::cuda {
namespace {

// ‖found - wanted‖ / ‖wanted‖ over the rows of a run, and over a state: sums in floats, and exp to 2^-21.
constexpr double scanError = 2e-5;

struct ScannedSequence {
  int level, slot, tokens, done = 0;
  std::vector<float> packed;                // [tokens][columns]
  std::vector<double> wanted;               // [tokens][H][P]
  std::vector<std::vector<double>> states;  // after every token, [H][N][P]
};

struct ScanCase {
  ScanParameters shape{};  // what all runs share; no addresses
  std::vector<float> convX, convXBias, convBc, convBcBias, aLog, deltaBias, skip, norm;
  std::vector<ScannedSequence> sequences;  // widest level first

  size_t H() const { return static_cast<size_t>(shape.heads); }
  size_t P() const { return static_cast<size_t>(shape.channels); }
  size_t G() const { return static_cast<size_t>(shape.groups); }
  size_t N() const { return static_cast<size_t>(shape.states); }
  size_t before() const { return static_cast<size_t>(shape.taps - 1); }
  size_t slots() const { return static_cast<size_t>(shape.slots); }
  size_t columns() const { return 2 * H() * P() + 2 * G() * N() + H(); }
  size_t width(const ScannedSequence& s) const { return static_cast<size_t>(shape.widths[s.level]); }
  size_t stateWidth(const ScannedSequence& s) const { return static_cast<size_t>(shape.stateWidths[s.level]); }
};

// All that is kept of a slot: inputs of both convolutions, and the recurrence.
struct ScanPools {
  std::vector<float> convX, convBc, state;
};

void scanPlainly(const ScanCase& test, ScannedSequence& s) {
  const size_t H = test.H(), P = test.P(), G = test.G(), N = test.N(), taps = test.before() + 1;
  const size_t fullP = static_cast<size_t>(test.shape.fullChannels), fullN = static_cast<size_t>(test.shape.fullStates);
  const size_t width = test.width(s), stateWidth = test.stateWidth(s);
  const auto number = [](const std::vector<float>& values, size_t at) { return static_cast<double>(values[at]); };
  const auto convolve = [&](size_t token, size_t column, const std::vector<float>& weights,
                            const std::vector<float>& bias, size_t channel) {
    double sum = bias.empty() ? 0 : number(bias, channel);
    for (size_t tap = 0; tap < taps; tap++) {
      if (token + tap < taps - 1) continue;
      sum +=
          number(weights, channel * taps + tap) * number(s.packed, (token + tap + 1 - taps) * test.columns() + column);
    }
    return espalier::silu(sum);
  };
  std::vector<double> state(H * N * P, 0);
  for (size_t token = 0; token < static_cast<size_t>(s.tokens); token++) {
    std::vector<double> y(H * P, 0);
    for (size_t h = 0; h < H; h++) {
      const size_t group = h / (H / G);
      const double step = number(s.packed, (token + 1) * test.columns() - H + h) + number(test.deltaBias, h);
      const double delta = std::min(std::max(std::log1p(std::exp(step)), static_cast<double>(test.shape.leastDelta)),
                                    static_cast<double>(test.shape.greatestDelta));
      const double decay = std::exp(-std::exp(number(test.aLog, h)) * delta);
      std::vector<double> x(width);
      for (size_t i = 0; i < width; i++) {
        x[i] = convolve(token, H * P + h * P + i, test.convX, test.convXBias, h * fullP + i);
        y[h * P + i] = number(test.skip, test.shape.skipPerChannel ? h * fullP + i : h) * x[i];
      }
      for (size_t n = 0; n < stateWidth; n++) {
        const auto of = [&](size_t g) {
          return convolve(token, 2 * H * P + g * N + n, test.convBc, test.convBcBias, g * fullN + n);
        };
        const double b = of(group), c = of(G + group);
        for (size_t i = 0; i < width; i++) {
          double& at = state[(h * N + n) * P + i];
          at = decay * at + b * delta * x[i];
          y[h * P + i] += c * at;
        }
      }
      for (size_t i = 0; i < width; i++)
        y[h * P + i] *= espalier::silu(number(s.packed, token * test.columns() + h * P + i));
    }
    for (size_t g = 0; g < G; g++) {
      double squares = 0;
      for (size_t i = g * H / G * P; i < (g + 1) * H / G * P; i++) squares += y[i] * y[i];
      const double mean = squares / static_cast<double>(H / G * fullP);
      const double inverse = 1 / std::sqrt(mean + static_cast<double>(test.shape.epsilon));
      for (size_t i = g * H / G * P; i < (g + 1) * H / G * P; i++) {
        y[i] *= inverse * number(test.norm, i / P * fullP + i % P);
      }
    }
    s.wanted.insert(s.wanted.end(), y.begin(), y.end());
    s.states.push_back(state);
  }
}

ScanCase randomScan(Random& random, int groups, int perGroup, int channels, int states, int longest) {
  ScanCase test;
  ScanParameters& p = test.shape;
  p.heads = groups * perGroup;
  p.groups = groups;
  p.channels = channels;
  p.states = states;
  p.fullChannels = channels + static_cast<int>(random.chance(3) ? random.below(9) : 0);
  p.fullStates = states + static_cast<int>(random.chance(3) ? random.below(9) : 0);
  p.taps = random.chance(2) ? 4 : static_cast<int>(random.between(1, 5));
  p.skipPerChannel = random.chance(2);
  p.leastDelta = random.chance(2) ? 0.0f : 0.01f;
  p.greatestDelta = random.chance(2) ? INFINITY : 0.5f;
  p.epsilon = 1e-5f;
  const int levels = static_cast<int>(random.between(1, 4));
  for (int i = 0, width = channels, stateWidth = states; i < levels; i++) {
    p.widths[i] = width;
    p.stateWidths[i] = stateWidth;
    width -= static_cast<int>(random.below(static_cast<size_t>(width)) / 3);
    stateWidth -= static_cast<int>(random.below(static_cast<size_t>(stateWidth)) / 3);
  }
  const size_t taps = static_cast<size_t>(p.taps), fullP = test.H() * static_cast<size_t>(p.fullChannels);
  const size_t fullN = 2 * test.G() * static_cast<size_t>(p.fullStates);
  test.convX = random.floats(fullP * taps);
  test.convBc = random.floats(fullN * taps);
  if (random.chance(2)) {
    test.convXBias = random.floats(fullP);
    test.convBcBias = random.floats(fullN);
  }
  test.aLog = random.floats(test.H());
  test.deltaBias = random.floats(test.H(), 2);
  test.skip = random.floats(p.skipPerChannel ? fullP : test.H());
  test.norm = random.floats(fullP);
  const RandomLanes lanes = randomLanes(random, levels);
  p.laneCount = lanes.count();
  p.slots = lanes.slotCount;
  for (int i = 0; i < p.laneCount; i++) {
    ScannedSequence s;
    s.level = lanes.levels[static_cast<size_t>(i)];
    s.slot = lanes.slots[static_cast<size_t>(i)];
    s.tokens = static_cast<int>(random.between(1, static_cast<size_t>(longest)));
    s.packed = random.floats(static_cast<size_t>(s.tokens) * test.columns(), 2);
    // Whatever a level lacks is never read.
    for (size_t at = 0; at < s.packed.size(); at++) {
      const size_t column = at % test.columns(), x = 2 * test.H() * test.P(), bc = x + 2 * test.G() * test.N();
      if (column < x ? column % test.P() >= test.width(s)
                     : column < bc && (column - x) % test.N() >= test.stateWidth(s))
        s.packed[at] = NAN;
    }
    scanPlainly(test, s);
    test.sequences.push_back(s);
  }
  return test;
}

// One run: of sequence i the next rows[i] tokens. Its answer; the pools are brought up to date.
std::vector<float> scan(const ScanCase& test, const std::vector<int>& rows, ScanPools* pools, size_t* launched) {
  ScanParameters p = test.shape;
  std::vector<float> packed;
  std::vector<LaneLine> lanes;
  for (size_t i = 0; i < rows.size(); i++) {
    const ScannedSequence& s = test.sequences[i];
    lanes.push_back({p.rows, rows[i], rows[i] ? s.done + rows[i] : 1, s.level, s.slot, {}});
    p.rows += rows[i];
    const auto first = s.packed.begin() + s.done * static_cast<long>(test.columns());
    packed.insert(packed.end(), first, first + rows[i] * static_cast<long>(test.columns()));
  }
  DeviceArray<float> packedMemory(packed), y(static_cast<size_t>(p.rows) * test.H() * test.P());
  DeviceArray<LaneLine> laneMemory(lanes);
  DeviceArray<float> convX(test.convX), convXBias(test.convXBias), convBc(test.convBc), convBcBias(test.convBcBias);
  DeviceArray<float> aLog(test.aLog), deltaBias(test.deltaBias), skip(test.skip), norm(test.norm);
  DeviceArray<float> convXState(pools->convX), convBcState(pools->convBc), state(pools->state);
  DeviceArray<float> work(scanWorkBytes(p) / sizeof(float));
  p.packed = packedMemory.data();
  p.lanes = laneMemory.data();
  p.convX = convX.data();
  p.convXBias = test.convXBias.empty() ? nullptr : convXBias.data();
  p.convBc = convBc.data();
  p.convBcBias = test.convBcBias.empty() ? nullptr : convBcBias.data();
  p.aLog = aLog.data();
  p.deltaBias = deltaBias.data();
  p.skip = skip.data();
  p.norm = norm.data();
  p.convXState = convXState.data();
  p.convBcState = convBcState.data();
  p.state = state.data();
  p.y = y.data();
  p.work = work.data();
  ScanLaunch launches[3];
  *launched = scanLaunches(p, launches);
  for (size_t i = 0; i < *launched; i++) {
    const ScanLaunch& next = launches[i];
    checkedDevice().launch(scanKernels[next.kernel].name, next.grid, next.threads, next.sharedBytes, &p, sizeof(p));
  }
  *pools = {convXState.read("inputs of x"), convBcState.read("inputs of B and C"), state.read("states")};
  work.read("work memory");
  return y.read("scanned rows");
}

// What a sequence's slot should hold after `tokens` tokens is put into `pools`, where it is there: the inputs to the
// bit, the state nearly. So anything else that differs from `found` was not to be written.
void checkStates(const ScanCase& test, const ScannedSequence& s, size_t tokens, const ScanPools& found,
                 ScanPools* pools) {
  const size_t H = test.H(), P = test.P(), G = test.G(), N = test.N(), slot = static_cast<size_t>(s.slot);
  const auto compareInputs = [&](size_t groups, size_t each, size_t kept, size_t firstColumn,
                                 const std::vector<float>& from, std::vector<float>& to, const char* what) {
    for (size_t tap = 0; tap < test.before(); tap++) {
      for (size_t i = 0; i < groups * each; i++) {
        if (i % each >= kept) continue;
        const size_t at = (slot * test.before() + tap) * groups * each + i;
        const bool there = tokens + tap >= test.before();
        const float wanted = there ? s.packed[(tokens + tap - test.before()) * test.columns() + firstColumn + i] : 0.0f;
        check(from[at] == wanted, "input %zu of %s, %zu rows ago: %g, wanted %g", i, what, test.before() - tap,
              static_cast<double>(from[at]), static_cast<double>(wanted));
        to[at] = from[at];
      }
    }
  };
  compareInputs(H, P, test.width(s), H * P, found.convX, pools->convX, "x");
  compareInputs(2 * G, N, test.stateWidth(s), 2 * H * P, found.convBc, pools->convBc, "B and C");
  double error = 0, size = 0;
  for (size_t h = 0; h < H; h++) {
    for (size_t n = 0; n < test.stateWidth(s); n++) {
      for (size_t i = 0; i < test.width(s); i++) {
        const size_t in = (h * N + n) * P + i, at = slot * H * N * P + in;
        const double wanted = s.states[tokens - 1][in], off = static_cast<double>(found.state[at]) - wanted;
        error += off * off;
        size += wanted * wanted;
        pools->state[at] = found.state[at];
      }
    }
  }
  check(std::sqrt(error) <= scanError * std::sqrt(size), "the state after %zu tokens is off by %.2g", tokens,
        std::sqrt(error / size));
}

// All sequences from their first token to their last, in pieces of at most `mostRows` rows.
void checkScan(Random& random, int groups, int perGroup, int channels, int states, int longest, size_t mostRows) {
  ScanCase test = randomScan(random, groups, perGroup, channels, states, longest);
  std::snprintf(currentCase, sizeof(currentCase), "scan, %d heads of %d, %d groups of %d, %d taps, %d lanes",
                test.shape.heads, channels, groups, states, test.shape.taps, test.shape.laneCount);
  const auto unknown = [](size_t count) {
    std::vector<float> values(count);
    if (count > 0) std::memset(values.data(), 0xff, count * sizeof(float));
    return values;
  };
  const size_t lanes = test.sequences.size(), outputs = test.H() * test.P();
  ScanPools pools{unknown(test.slots() * test.before() * test.H() * test.P()),
                  unknown(test.slots() * test.before() * 2 * test.G() * test.N()),
                  unknown(test.slots() * test.H() * test.N() * test.P())};
  for (;;) {
    std::vector<int> rows;
    int total = 0, left = 0;
    for (const ScannedSequence& s : test.sequences) {
      const int next = random.chance(4) ? 0 : random.chance(2) ? 1 : static_cast<int>(random.between(1, mostRows));
      left += s.tokens - s.done;
      rows.push_back(std::min(s.tokens - s.done, next));
      total += rows.back();
    }
    if (left == 0) return;
    if (total == 0) continue;
    const ScanPools before = pools;
    size_t launches = 0, alone = 0;
    const std::vector<float> y = scan(test, rows, &pools, &launches);
    ScanPools expected = before;
    size_t first = 0;
    for (size_t i = 0; i < lanes; i++) {
      ScannedSequence& s = test.sequences[i];
      const size_t count = static_cast<size_t>(rows[i]) * outputs;
      if (count == 0) continue;
      const double* wanted = s.wanted.data() + static_cast<size_t>(s.done) * outputs;
      double error = 0, size = 0;
      bool zero = true;
      for (size_t at = 0; at < count; at++) {
        const double off = static_cast<double>(y[first + at]) - wanted[at];
        error += off * off;
        size += wanted[at] * wanted[at];
        if (at % test.P() >= test.width(s)) zero = zero && y[first + at] == 0;
      }
      check(std::sqrt(error) <= scanError * std::sqrt(size), "sequence %zu, %d rows behind %d: off by %.2g", i, rows[i],
            s.done, std::sqrt(error / size));
      check(zero, "sequence %zu has something behind its channels", i);
      checkStates(test, s, static_cast<size_t>(s.done + rows[i]), pools, &expected);

      std::vector<int> own(lanes, 0);
      own[i] = rows[i];
      ScanPools copy = before;
      const std::vector<float> single = scan(test, own, &copy, &alone);
      if (alone == launches) check(sameBits(single.data(), y.data() + first, count), "sequence %zu differs alone", i);
      first += count;
    }
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return sameBits(a.data(), b.data(), a.size());
    };
    check(same(expected.convX, pools.convX) && same(expected.convBc, pools.convBc) && same(expected.state, pools.state),
          "something else in the states was written");
    for (size_t i = 0; i < lanes; i++) test.sequences[i].done += rows[i];
  }
}

}  // namespace
}  // namespace espalier::cuda

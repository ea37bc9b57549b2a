// Attention over caches on the device: sequences go through it in random pieces, mixed with others, against sums in
// double precision over all their tokens.
#pragma once

#include "../lane_attention.h"
#include "device_array.h"
#include "random_lanes.h"

namespace espalier::cuda {
namespace {

// ‖found - wanted‖ / ‖wanted‖ over all rows of a sequence. A single number may be off by more, see `attendPlainly`.
constexpr double attentionError = 1e-3;

// Rounding to a half, relative.
constexpr double roundedToHalf = 0x1p-11;

struct AttendedSequence {
  int level, slot, tokens;
  std::vector<float> packed;          // [tokens][heads][widest]
  std::vector<float> cosines, sines;  // [tokens][frequencies]
  std::vector<double> wanted;         // [tokens][H][widest]
  std::vector<double> bounds;         // how far a result may be off
  int done = 0;                       // tokens that are in the caches
  double error = 0, size = 0;         // so far, squared
};

struct AttentionCase {
  AttentionParameters shape{};  // what all runs share; no addresses
  bool turns = true;
  std::vector<int64_t> pairs;
  std::vector<AttendedSequence> sequences;  // widest level first

  size_t heads() const { return static_cast<size_t>(shape.queryHeads + 2 * shape.keyHeads); }
  size_t widest() const { return static_cast<size_t>(shape.widest); }
  size_t frequencies() const { return static_cast<size_t>(shape.frequencies); }
  size_t outputs() const { return static_cast<size_t>(shape.queryHeads * shape.widest); }
  size_t poolSize() const {
    return static_cast<size_t>(shape.slots) * static_cast<size_t>(shape.keyHeads * shape.capacity) * widest();
  }
};

// A head of a token, turned if it is a query or a key.
std::vector<double> headOf(const AttentionCase& test, const AttendedSequence& s, size_t token, size_t head, bool turned,
                           size_t keyHead) {
  const size_t widest = test.widest(), kept = static_cast<size_t>(test.shape.widths[s.level]);
  const float* x = s.packed.data() + (token * test.heads() + head) * widest;
  std::vector<double> y(x, x + kept);
  for (size_t pair = 0; test.turns && turned && 2 * pair < kept; pair++) {
    const size_t at = token * test.frequencies() + static_cast<size_t>(test.pairs[keyHead * (widest / 2) + pair]);
    const double cosine = static_cast<double>(s.cosines[at]), sine = static_cast<double>(s.sines[at]);
    const double first = y[2 * pair], second = y[2 * pair + 1];
    y[2 * pair] = first * cosine - second * sine;
    y[2 * pair + 1] = first * sine + second * cosine;
  }
  return y;
}

// A query and a key are rounded to halves, so a score is off by at most twice that of the sum of its products'
// magnitudes; that doubles in a weight, which is divided by a sum of others. Weights and values are rounded once more,
// and 1e-5 of their product is left to sums in floats and to exp.
void attendPlainly(const AttentionCase& test, AttendedSequence& s) {
  const size_t G = static_cast<size_t>(test.shape.keyHeads), H = static_cast<size_t>(test.shape.queryHeads);
  const size_t kept = static_cast<size_t>(test.shape.widths[s.level]), tokens = static_cast<size_t>(s.tokens);
  s.wanted.assign(tokens * test.outputs(), 0);
  s.bounds = s.wanted;
  for (size_t g = 0; g < G; g++) {
    std::vector<std::vector<double>> keys, values;
    for (size_t t = 0; t < tokens; t++) {
      keys.push_back(headOf(test, s, t, H + g, true, g));
      values.push_back(headOf(test, s, t, H + G + g, false, g));
    }
    for (size_t h = g * (H / G); h < (g + 1) * (H / G); h++) {
      for (size_t t = 0; t < tokens; t++) {
        const std::vector<double> query = headOf(test, s, t, h, true, g);
        std::vector<double> weights(t + 1);
        double greatest = -INFINITY, total = 0, magnitude = 0;
        for (size_t j = 0; j <= t; j++) {
          double score = 0, sum = 0;
          for (size_t i = 0; i < kept; i++) {
            score += query[i] * keys[j][i];
            sum += std::fabs(query[i] * keys[j][i]);
          }
          weights[j] = score * static_cast<double>(test.shape.scale);
          greatest = std::fmax(greatest, weights[j]);
          magnitude = std::fmax(magnitude, sum * static_cast<double>(test.shape.scale));
        }
        const double share = 2 * 2 * roundedToHalf * magnitude + 2 * roundedToHalf + 1e-5;
        for (double& weight : weights) total += weight = std::exp(weight - greatest);
        const size_t at = (t * H + h) * test.widest();
        for (size_t j = 0; j <= t; j++) {
          for (size_t i = 0; i < kept; i++) {
            const double part = weights[j] / total * values[j][i];
            s.wanted[at + i] += part;
            s.bounds[at + i] += share * std::fabs(part);
          }
        }
      }
    }
  }
}

AttentionCase randomAttention(Random& random, int keyHeads, int perHead, int widest, int longest) {
  AttentionCase test;
  AttentionParameters& p = test.shape;
  p.queryHeads = keyHeads * perHead;
  p.keyHeads = keyHeads;
  p.widest = widest;
  p.scale = 1.0f / std::sqrt(static_cast<float>(widest));
  test.turns = !random.chance(4);
  p.frequencies = static_cast<int>(random.between(1, static_cast<size_t>(widest / 2)));
  p.capacity = longest + static_cast<int>(random.below(30));
  const int levels = static_cast<int>(random.between(1, 4));
  for (int i = 0, width = widest; i < levels; i++) {
    p.widths[i] = width;
    width = std::max(2, width - 2 * static_cast<int>(random.between(0, static_cast<size_t>(widest) / 8)));
  }
  for (int i = 0; i < keyHeads * (widest / 2); i++) {
    test.pairs.push_back(static_cast<int64_t>(random.below(test.frequencies())));
  }
  const RandomLanes lanes = randomLanes(random, levels);
  p.laneCount = lanes.count();
  p.slots = lanes.slotCount;
  for (int i = 0; i < p.laneCount; i++) {
    AttendedSequence s;
    s.level = lanes.levels[static_cast<size_t>(i)];
    s.slot = lanes.slots[static_cast<size_t>(i)];
    s.tokens = static_cast<int>(random.between(1, static_cast<size_t>(random.chance(3) ? longest : 1 + longest / 4)));
    s.packed = random.floats(static_cast<size_t>(s.tokens) * test.heads() * test.widest(), 2);
    const size_t kept = static_cast<size_t>(p.widths[s.level]);
    for (size_t at = 0; at < s.packed.size(); at++) {
      if (at % test.widest() >= kept) s.packed[at] = NAN;  // never read
    }
    for (int token = 0; token < s.tokens; token++) {
      for (size_t f = 0; f < test.frequencies(); f++) {
        const double angle = token * std::pow(0.7, static_cast<double>(f));
        s.cosines.push_back(static_cast<float>(std::cos(angle)));
        s.sines.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    attendPlainly(test, s);
    test.sequences.push_back(s);
  }
  return test;
}

struct Pools {
  std::vector<uint16_t> keys, values;
};

// One run: of sequence i the next rows[i] tokens. Its answer; the pools are brought up to date.
std::vector<float> attend(const AttentionCase& test, const std::vector<int>& rows, int multiprocessors, Pools* pools) {
  AttentionParameters p = test.shape;
  std::vector<float> packed, cosines, sines;
  std::vector<LaneLine> lanes;
  for (size_t i = 0; i < rows.size(); i++) {
    const AttendedSequence& s = test.sequences[i];
    const auto append = [&](std::vector<float>& to, const std::vector<float>& from, size_t each) {
      const auto first = from.begin() + s.done * static_cast<long>(each);
      to.insert(to.end(), first, first + rows[i] * static_cast<long>(each));
    };
    // An idle lane says that it has one token, and its slot is anybody's.
    lanes.push_back({p.rows, rows[i], rows[i] ? s.done + rows[i] : 1, s.level, s.slot, {}});
    p.rows += rows[i];
    append(packed, s.packed, test.heads() * test.widest());
    append(cosines, s.cosines, test.frequencies());
    append(sines, s.sines, test.frequencies());
  }
  DeviceArray<float> packedMemory(packed), cosinesMemory(cosines), sinesMemory(sines);
  DeviceArray<float> y(static_cast<size_t>(p.rows) * test.outputs());
  DeviceArray<LaneLine> laneMemory(lanes);
  DeviceArray<int64_t> pairs(test.pairs);
  DeviceArray<uint16_t> keys(pools->keys), values(pools->values);
  AttentionLaunch launches[2];
  const size_t count = attentionLaunches(&p, multiprocessors, launches);
  DeviceArray<uint8_t> work(attentionWorkBytes(p));
  DeviceArray<unsigned> arrived(attentionCounters(p));
  const CounterParameters counters{arrived.data(), attentionCounters(p)};
  checkedDevice().launch("clearCounters", {}, 64, 0, &counters, sizeof(counters));
  p.packed = packedMemory.data();
  p.lanes = laneMemory.data();
  p.cosines = test.turns ? cosinesMemory.data() : nullptr;
  p.sines = test.turns ? sinesMemory.data() : nullptr;
  p.pairs = pairs.data();
  p.keys = keys.data();
  p.values = values.data();
  p.y = y.data();
  p.work = work.data();
  p.arrived = arrived.data();
  for (size_t i = 0; i < count; i++) {
    checkedDevice().launch(attentionKernels[launches[i].kernel].name, launches[i].grid, launches[i].threads,
                           launches[i].sharedBytes, &p, sizeof(p));
  }
  *pools = {keys.read("keys"), values.read("values")};
  work.read("work memory");
  for (const unsigned counter : arrived.read("counters")) check(counter == 0, "a counter was left at %u", counter);
  return y.read("attended rows");
}

// What the caches should hold of the tokens from `first` to `last` is put into `pools` where it is there to half
// precision; so anything else that differs from `found` was not to be written.
void checkAppended(const AttentionCase& test, const AttendedSequence& s, int first, int last, const Pools& found,
                   Pools* pools) {
  const size_t widest = test.widest(), H = static_cast<size_t>(test.shape.queryHeads);
  const size_t G = static_cast<size_t>(test.shape.keyHeads), kept = static_cast<size_t>(test.shape.widths[s.level]);
  const size_t stored = std::min((kept + 15) / 16 * 16, widest);
  for (size_t g = 0; g < G; g++) {
    for (size_t token = static_cast<size_t>(first); token < static_cast<size_t>(last); token++) {
      const size_t at =
          ((static_cast<size_t>(s.slot) * G + g) * static_cast<size_t>(test.shape.capacity) + token) * widest;
      std::vector<double> key = headOf(test, s, token, H + g, true, g),
                          value = headOf(test, s, token, H + G + g, false, g);
      key.resize(stored, 0);
      value.resize(stored, 0);
      const auto compare = [&](const std::vector<double>& wanted, const std::vector<uint16_t>& from,
                               std::vector<uint16_t>& to, const char* what) {
        for (size_t i = 0; i < stored; i++) {
          const bool close = std::fabs(fromHalf(from[at + i]) - wanted[i]) <= 0x1p-10 * std::fabs(wanted[i]) + 0x1p-20;
          check(close, "%s of token %zu, head %zu, component %zu: %g, wanted %g", what, token, g, i,
                fromHalf(from[at + i]), wanted[i]);
          if (close) to[at + i] = from[at + i];
        }
      };
      compare(key, found.keys, pools->keys, "key");
      compare(value, found.values, pools->values, "value");
    }
  }
}

// All sequences from their first token to their last, in pieces of at most `mostRows` rows.
void checkAttention(Random& random, int keyHeads, int perHead, int widest, int longest, size_t mostRows) {
  AttentionCase test = randomAttention(random, keyHeads, perHead, widest, longest);
  std::snprintf(currentCase, sizeof(currentCase), "attention, %d heads for %d of %d, %d lanes of up to %d tokens",
                test.shape.queryHeads, keyHeads, widest, test.shape.laneCount, longest);
  Pools pools{std::vector<uint16_t>(test.poolSize(), 0xffff), std::vector<uint16_t>(test.poolSize(), 0xffff)};
  const size_t lanes = test.sequences.size(), outputs = test.outputs();
  for (;;) {
    std::vector<int> rows;
    int total = 0;
    for (const AttendedSequence& s : test.sequences) {
      const int left = s.tokens - s.done;
      const int next = random.chance(4) ? 0 : random.chance(2) ? 1 : static_cast<int>(random.between(1, mostRows));
      rows.push_back(std::min(left, next));
      total += rows.back();
    }
    if (total == 0) {
      bool ended = true;
      for (const AttendedSequence& s : test.sequences) ended = ended && s.done == s.tokens;
      if (!ended) continue;
      for (const AttendedSequence& s : test.sequences) {
        const double error = std::sqrt(s.error / s.size);
        check(error <= attentionError, "a sequence of %d tokens is off by %.2g", s.tokens, error);
      }
      return;
    }
    static constexpr int sizes[] = {1, 8, 132};
    const int multiprocessors = sizes[random.below(3)];
    const Pools before = pools;
    const std::vector<float> y = attend(test, rows, multiprocessors, &pools);
    Pools expected = before;
    size_t first = 0;
    for (size_t i = 0; i < lanes; i++) {
      AttendedSequence& s = test.sequences[i];
      const size_t kept = static_cast<size_t>(test.shape.widths[s.level]),
                   count = static_cast<size_t>(rows[i]) * outputs;
      if (count == 0) continue;
      const double* wanted = s.wanted.data() + static_cast<size_t>(s.done) * outputs;
      const double* bounds = s.bounds.data() + static_cast<size_t>(s.done) * outputs;
      bool zero = true, close = true;
      for (size_t at = 0; at < count; at++) {
        const double off = static_cast<double>(y[first + at]) - wanted[at];
        close = close && std::fabs(off) <= bounds[at];
        s.error += off * off;
        s.size += wanted[at] * wanted[at];
        if (at % test.widest() >= kept) zero = zero && y[first + at] == 0;
      }
      check(close, "sequence %zu, %d rows behind %d are off", i, rows[i], s.done);
      check(zero, "sequence %zu has something behind its width", i);
      checkAppended(test, s, s.done, s.done + rows[i], pools, &expected);

      // The same rows with nobody beside them.
      std::vector<int> own(lanes, 0);
      own[i] = rows[i];
      AttentionParameters batched = test.shape, alone = test.shape;
      batched.rows = total;
      alone.rows = rows[i];
      if (takesFewRows(batched) == takesFewRows(alone) && total > rows[i]) {
        Pools copy = before;
        const std::vector<float> single = attend(test, own, sizes[random.below(3)], &copy);
        check(sameBits(single.data(), y.data() + first, count), "sequence %zu differs alone", i);
      }
      first += count;
    }
    check(expected.keys == pools.keys && expected.values == pools.values, "something else in the caches was written");
    for (size_t i = 0; i < lanes; i++) test.sequences[i].done += rows[i];
  }
}

}  // namespace
}  // namespace espalier::cuda

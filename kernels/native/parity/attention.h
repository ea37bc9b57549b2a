// Attention of random sequences in one batch: against plain loops, and against itself alone, in pieces, masked and on
// threads.
#pragma once

#include "../lane_attention.h"
#include "checks.h"
#include "tasks.h"

namespace espalier {
namespace {

// A sequence with all of its tokens; the last `rows` of them are this run's.
struct Sequence {
  size_t before, rows, width, capacity;
  std::vector<float> packed;  // [tokens][heads][widest]
  std::vector<float> cosines, sines;
  std::vector<Half> keys, values;  // after `before` tokens

  size_t tokens() const { return before + rows; }
};

struct AttentionCase {
  AttentionShape shape;
  bool turns;
  size_t frequencies;
  std::vector<int64_t> pairs;
  std::vector<Sequence> sequences;

  size_t heads() const { return shape.queryHeads + 2 * shape.keyHeads; }
};

struct Outcome {
  std::vector<std::vector<float>> y;  // of each sequence
  std::vector<Sequence> sequences;    // their caches extended
};

// The last rows of some sequences in one run: of sequence i those from firstTokens[i] to the end.
Outcome attend(const Routines& routines, const AttentionCase& test, std::vector<Sequence> sequences,
               const std::vector<size_t>& firstTokens, const Order& order, uint8_t fill) {
  const size_t perRow = test.heads() * test.shape.widest, outPerRow = test.shape.queryHeads * test.shape.widest;
  std::vector<float> packed;
  std::vector<Lane> lanes;
  size_t rows = 0;
  for (size_t i = 0; i < sequences.size(); i++) {
    Sequence& s = sequences[i];
    const auto append = [&](std::vector<float>& to, const std::vector<float>& from, size_t each) {
      to.insert(to.end(), from.begin() + static_cast<long>(firstTokens[i] * each),
                from.begin() + static_cast<long>(s.tokens() * each));
    };
    append(packed, s.packed, perRow);
    const size_t own = s.tokens() - firstTokens[i];
    lanes.push_back({own, s.tokens(), s.width, s.capacity, s.keys.data(), s.values.data()});
    rows += own;
  }
  // All sequences have the angles of the longest, as far as they go.
  const Sequence& longest = *std::max_element(
      sequences.begin(), sequences.end(), [](const Sequence& a, const Sequence& b) { return a.tokens() < b.tokens(); });
  const LaneAttention attention(routines, test.shape);
  AttentionRun run{};
  run.packed = packed.data();
  run.cosines = test.turns ? longest.cosines.data() : nullptr;
  run.sines = test.turns ? longest.sines.data() : nullptr;
  run.frequencies = test.frequencies;
  run.pairs = test.pairs.data();
  run.lanes = lanes.data();
  run.laneCount = lanes.size();
  Guarded y(rows * outPerRow * 4, fill), memory(attention.workBytes(run), fill);
  run.y = y.floats();
  carryOut(order, LaneAttention::loops, [&](const Parallel& parallel) { attention.run(run, memory.data(), parallel); });
  y.checkBands("attended rows");
  memory.checkBands("work memory");
  Outcome outcome;
  const float* at = y.floats();
  for (const Lane& lane : lanes) {
    outcome.y.emplace_back(at, at + lane.rows * outPerRow);
    at += lane.rows * outPerRow;
  }
  outcome.sequences = std::move(sequences);
  return outcome;
}

Sequence withoutCache(const AttentionCase& test, Sequence sequence, Half fill) {
  const size_t size = test.shape.keyHeads * sequence.capacity * sequence.width;
  sequence.keys.assign(size, fill);
  sequence.values.assign(size, fill);
  return sequence;
}

// Heads without sequences.
AttentionCase randomHeads(Random& random, size_t keyHeads, size_t perHead) {
  AttentionCase test;
  const size_t widest = random.chance(4) ? 2 * random.between(1, 40) : 8 * random.between(1, 10);
  test.shape = {keyHeads * perHead, keyHeads, widest, 1.0f / std::sqrt(static_cast<float>(widest))};
  test.turns = !random.chance(4);
  test.frequencies = random.between(1, widest / 2 + 1);
  for (size_t i = 0; i < keyHeads * (widest / 2); i++) {
    test.pairs.push_back(static_cast<int64_t>(random.below(test.frequencies)));
  }
  return test;
}

// The angles of the tokens up to this one.
void extendAngles(Sequence& s, size_t frequencies, size_t tokens) {
  for (size_t token = s.cosines.size() / frequencies; token < tokens; token++) {
    for (size_t f = 0; f < frequencies; f++) {
      const double angle = static_cast<double>(token) * std::pow(0.7, static_cast<double>(f));
      s.cosines.push_back(static_cast<float>(std::cos(angle)));
      s.sines.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

AttentionCase randomAttention(Random& random, size_t keyHeads, size_t perHead, size_t rows, size_t longest) {
  AttentionCase test = randomHeads(random, keyHeads, perHead);
  const size_t widest = test.shape.widest;
  const float size = random.chance(4) ? 6.0f : 2.0f;
  for (size_t i = random.between(1, 4); i > 0; i--) {
    Sequence s{};
    s.before = random.chance(4) ? 0 : random.below(longest);
    s.rows = random.chance(2) ? 1 : random.between(1, rows);
    s.width = random.chance(2) ? widest : 2 * random.between(1, widest / 2);
    s.capacity = (s.tokens() + random.below(40) + keyTokens - 1) / keyTokens * keyTokens;
    s.packed = random.floats(s.tokens() * test.heads() * widest, size);
    // Components that a level lacks are zero, as a product leaves them.
    for (size_t at = 0; at < s.packed.size(); at++) {
      if (at % widest >= s.width) s.packed[at] = 0;
    }
    extendAngles(s, test.frequencies, s.tokens());
    test.sequences.push_back(s);
  }
  return test;
}

// What a cache keeps of numbers.
std::vector<double> kept(const Routines& routines, const float* x, size_t count) {
  std::vector<Half> halves(count);
  routines.toHalves(x, count, halves.data());
  std::vector<double> values(count);
  for (size_t i = 0; i < count; i++) values[i] = fromHalf(halves[i]);
  return values;
}

std::vector<float> rotated(const Routines& routines, const AttentionCase& test, const Sequence& s, size_t token,
                           size_t head, size_t keyHead, float scale) {
  const size_t widest = test.shape.widest;
  std::vector<float> cosines, sines, y(widest);
  for (size_t pair = 0; pair < widest / 2; pair++) {
    const size_t at = token * test.frequencies + static_cast<size_t>(test.pairs[keyHead * (widest / 2) + pair]);
    cosines.push_back(s.cosines[at]);
    sines.push_back(s.sines[at]);
  }
  routines.rotateHead(s.packed.data() + (token * test.heads() + head) * widest, test.turns ? cosines.data() : nullptr,
                      sines.data(), widest, scale, y.data());
  return y;
}

// One query in double precision, from rotated heads and what caches keep of them (both are checked by themselves).
// Every weight exp(score - greatest) is off by a factor of at most 1 + e: the score by the width's roundings, the
// difference by one, exp by its own error, and as often as the greatest score grew, a shrinking by an exp again. A sum
// over n tokens adds n roundings. The quotient of two such sums is off by twice that. Weights below exp(-87) are not.
std::vector<Estimate> estimateQuery(const Routines& routines, const AttentionCase& test, const Sequence& s,
                                    size_t token, size_t queryHead) {
  const AttentionShape& shape = test.shape;
  const size_t head = queryHead / (shape.queryHeads / shape.keyHeads);
  const std::vector<float> query = rotated(routines, test, s, token, queryHead, head, shape.scale);
  std::vector<double> scores;
  double greatest = -1e300, least = 1e300, magnitude = 0;
  for (size_t t = 0; t <= token; t++) {
    const std::vector<float> turned = rotated(routines, test, s, t, shape.queryHeads + head, head, 1);
    const std::vector<double> key = kept(routines, turned.data(), turned.size());
    double score = 0, size = 0;
    for (size_t i = 0; i < shape.widest; i++) {
      score += static_cast<double>(query[i]) * key[i];
      size += std::fabs(static_cast<double>(query[i]) * key[i]);
    }
    scores.push_back(score);
    greatest = std::max(greatest, score);
    least = std::min(least, score);
    magnitude = std::max(magnitude, size);
  }
  const double tokens = static_cast<double>(token + 1);
  const double updates = tokens / 64 + tokens / 256 + 3;
  const double weightError = (static_cast<double>(shape.widest) + 2) * u * magnitude +
                             updates * (exponentialError + u * (greatest - least + 1));
  double total = 0;
  for (double& score : scores) total += score = std::exp(score - greatest);
  std::vector<double> sums(shape.widest), sizes(shape.widest);
  for (size_t t = 0; t <= token; t++) {
    const size_t at = (t * test.heads() + shape.queryHeads + shape.keyHeads + head) * shape.widest;
    const std::vector<double> value = kept(routines, s.packed.data() + at, shape.widest);
    for (size_t i = 0; i < shape.widest; i++) {
      sums[i] += scores[t] * value[i];
      sizes[i] += scores[t] * std::fabs(value[i]);
    }
  }
  std::vector<Estimate> estimates(shape.widest);
  for (size_t i = 0; i < shape.widest; i++) {
    estimates[i] = {sums[i] / total, 2 * (weightError + (tokens + 4) * u) * sizes[i] / total + 1e-35};
  }
  return estimates;
}

// Holds a head of one of a sequence's new rows against plain loops.
void checkQuery(const Routines& routines, const AttentionCase& test, const Sequence& s, size_t row, size_t queryHead,
                const float* y) {
  const std::vector<Estimate> wanted = estimateQuery(routines, test, s, s.before + row, queryHead);
  for (size_t c = 0; c < test.shape.widest; c++) {
    if (c < s.width) {
      check(within(y[c], wanted[c]), "%s: row %zu, head %zu, component %zu: %.9g, wanted %.9g ± %.2g", routines.name,
            row, queryHead, c, static_cast<double>(y[c]), wanted[c].value, wanted[c].error);
    } else {
      check(y[c] == 0.0f, "%s: row %zu has more than its level", routines.name, row);
    }
  }
}

void checkAttention(Random& random, size_t keyHeads, size_t perHead, size_t rows, size_t longest) {
  AttentionCase test = randomAttention(random, keyHeads, perHead, rows, longest);
  int length = std::snprintf(currentCase, sizeof(currentCase), "attention, %zu · %zu heads of %zu%s, lanes", keyHeads,
                             perHead, test.shape.widest, test.turns ? ", turned" : "");
  for (const Sequence& s : test.sequences) {
    length += std::snprintf(currentCase + length, sizeof(currentCase) - static_cast<size_t>(length), " %zu+%zu@%zu",
                            s.before, s.rows, s.width);
  }
  const size_t widest = test.shape.widest, outPerRow = test.shape.queryHeads * widest;
  forEachSet([&](const Routines& routines) {
    std::vector<Sequence> sequences;
    std::vector<size_t> firstTokens;
    for (const Sequence& s : test.sequences) {
      // What comes before, in two pieces. A fresh cache is full of what must not be read.
      Sequence filled = withoutCache(test, s, noNumber);
      for (const size_t end : {s.before / 2, s.before}) {
        Sequence piece = filled;
        const size_t first = end == s.before ? s.before / 2 : 0;
        if (end == first) continue;
        piece.before = first;
        piece.rows = end - first;
        const Outcome outcome = attend(routines, test, {piece}, {first}, forward, 0xff);
        filled.keys = outcome.sequences[0].keys;
        filled.values = outcome.sequences[0].values;
      }
      sequences.push_back(filled);
      firstTokens.push_back(s.before);
    }
    const Outcome together = attend(routines, test, sequences, firstTokens, forward, 0x00);

    for (size_t i = 0; i < sequences.size(); i++) {
      const Sequence& s = sequences[i];
      const std::vector<float>& y = together.y[i];
      for (size_t row = 0; row < s.rows; row += random.between(1, 9)) {
        const size_t queryHead = random.below(test.shape.queryHeads);
        checkQuery(routines, test, s, row, queryHead, y.data() + row * outPerRow + queryHead * widest);
      }

      const Outcome alone = attend(routines, test, {s}, {s.before}, forward, 0xff);
      check(sameBits(alone.y[0].data(), y.data(), y.size()), "%s: lane %zu differs alone", routines.name, i);

      const Outcome whole = attend(routines, test, {withoutCache(test, s, greatestHalf)}, {0}, forward, 0xff);
      check(sameBits(whole.y[0].data() + s.before * outPerRow, y.data(), y.size()), "%s: lane %zu differs in one piece",
            routines.name, i);

      // At full width, what the level lacks being zero.
      Sequence masked = s;
      masked.width = widest;
      const Outcome wide = attend(routines, test, {withoutCache(test, masked, 0)}, {0}, forward, 0xff);
      check(sameBits(wide.y[0].data() + s.before * outPerRow, y.data(), y.size()), "%s: lane %zu differs from a mask",
            routines.name, i);
    }

    const auto compare = [&](const Outcome& other, const char* what) {
      for (size_t i = 0; i < sequences.size(); i++) {
        check(sameBits(other.y[i].data(), together.y[i].data(), together.y[i].size()), "%s: %s show in lane %zu",
              routines.name, what, i);
      }
    };
    compare(attend(routines, test, sequences, firstTokens, backward, 0xff), "tasks' orders");
    for (size_t threads : {size_t{1}, size_t{2}, size_t{4}}) {
      compare(attend(routines, test, sequences, firstTokens, teamOf(threads), 0x77), "threads");
    }
  });
}

}  // namespace
}  // namespace espalier

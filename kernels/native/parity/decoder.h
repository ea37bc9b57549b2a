// A small decoder of random layers, step after step. Sequences are opened, prefilled, decoded, narrowed and closed at
// random; a step takes some of them, each at its own level, on several threads. Every step is held against plain loops
// in random places and against each of its sequences alone, and a sequence that is closed against itself from its
// beginning, cut into other pieces.
#pragma once

#include <memory>

#include "attention.h"
#include "checks.h"
#include "products.h"
#include "scans.h"
#include "tasks.h"

namespace espalier {
namespace {

struct Linear {
  Layer layer;
  std::vector<float> norm;  // [inputs]; empty for none
  std::vector<size_t> levels;
  std::unique_ptr<PrefixProduct> product;
};

// A mixer, attention or a scan, between its projections, and an MLP.
struct Block {
  bool attends;
  AttentionCase attention;
  ScanBlock scanned;
  std::unique_ptr<LaneScan> scan;
  std::vector<size_t> widths;  // at each level: components of a head, or channels
  std::vector<size_t> states;
  Linear in, out, up, down;
};

struct Decoder {
  const Routines* routines;
  size_t hidden, levels;
  size_t longest;  // sequence, in tokens
  std::vector<Block> blocks;
  Linear head;

  // The channels of states stand level by level: with a scan no sequence is narrowed.
  bool narrows() const {
    return std::all_of(blocks.begin(), blocks.end(), [](const Block& block) { return block.attends; });
  }
};

// A sequence's caches and states: of each block one of the two, the other is empty.
struct Progress {
  size_t level = 0, length = 0;
  std::vector<Sequence> attended;
  std::vector<ScannedSequence> scanned;
};

// What a sequence was given and gave, and in which stretches of rows at one level.
struct History {
  struct Stretch {
    size_t level, rows;
  };
  std::vector<Stretch> stretches;
  std::vector<float> x, logits;
};

struct OpenSequence {
  Progress progress;
  History history;
};

// How a step is run, and what chooses the places to be held against plain loops; null for none.
struct Manner {
  Order order;
  uint8_t fill;
  Random* places;
};

// What each level keeps of an axis, in units of so many channels: at least one.
std::vector<size_t> randomWidths(Random& random, size_t levels, size_t widest, size_t unit = 1) {
  std::vector<size_t> widths{widest};
  while (widths.size() < levels) {
    const size_t units = widths.back() / unit;
    widths.push_back(unit * (random.chance(3) ? units : random.between((units + 1) / 2, units)));
  }
  return widths;
}

Linear randomLinear(Random& random, const Decoder& decoder, const ProductShape& shape,
                    const std::vector<std::vector<size_t>>& widths) {
  Linear linear;
  linear.layer.shape = shape;
  for (size_t level = decoder.levels; level-- > 0;) {
    StoredChunk chunk{nullptr, nullptr, nullptr, {}, level};
    for (size_t axis = 0; axis < shape.axes; axis++) {
      chunk.widths[axis] = widths[axis][level] - (level + 1 < decoder.levels ? widths[axis][level + 1] : 0);
    }
    if (shape.channelsOf(chunk) > 0) linear.layer.add(chunk);
  }
  drawWeights(random, linear.layer, random.chance(3));
  if (shape.cut != Cut::inputs) linear.norm = random.floats(linear.layer.inputs);
  linear.levels = levelsOf(linear.layer);
  const std::vector<StoredChunk>& chunks = linear.layer.chunks;
  linear.product.reset(PrefixProduct::create(*decoder.routines, shape, chunks.data(), chunks.size()));
  if (!linear.product) std::abort();
  return linear;
}

Block randomBlockOf(Random& random, const Decoder& decoder, bool attends) {
  static constexpr size_t blockSizes[] = {32, 64, 128};
  const size_t hidden = decoder.hidden, levels = decoder.levels, blockSize = blockSizes[random.below(3)];
  const auto outputs = [&](const std::vector<size_t>& groups, Activation activation) {
    ProductShape shape{Cut::outputs, groups.size(), {}, hidden, blockSize, activation};
    std::copy(groups.begin(), groups.end(), shape.groups);
    return shape;
  };
  const auto inputs = [&](size_t groups) {
    return ProductShape{Cut::inputs, 1, {groups}, hidden, blockSize, Activation::none};
  };
  Block block{};
  block.attends = attends;
  if (attends) {
    block.attention = randomHeads(random, random.between(1, 2), random.between(1, 4));
    const AttentionShape& shape = block.attention.shape;
    block.widths = randomWidths(random, levels, shape.widest, 2);
    block.in = randomLinear(random, decoder, outputs({shape.queryHeads, shape.keyHeads, shape.keyHeads}, {}),
                            {block.widths, block.widths, block.widths});
    block.out = randomLinear(random, decoder, inputs(shape.queryHeads), {block.widths});
  } else {
    block.scanned = randomBlock(random, false);
    const ScanShape& shape = block.scanned.shape;
    block.scan.reset(LaneScan::create(*decoder.routines, shape, block.scanned.parameters()));
    if (!block.scan) std::abort();
    block.widths = randomWidths(random, levels, shape.channels);
    block.states = randomWidths(random, levels, shape.states);
    block.in = randomLinear(random, decoder, outputs({2 * shape.heads, 2 * shape.groups, shape.heads}, {}),
                            {block.widths, block.states, std::vector<size_t>(levels, 1)});
    block.out = randomLinear(random, decoder, inputs(shape.heads), {block.widths});
  }
  const std::vector<size_t> channels = randomWidths(random, levels, random.between(1, 200));
  const ProductShape up = random.chance(3) ? outputs({1}, Activation::squaredRelu)
                                           : ProductShape{Cut::gated, 1, {2}, hidden, blockSize, Activation::none};
  block.up = randomLinear(random, decoder, up, {channels});
  block.down = randomLinear(random, decoder, inputs(1), {channels});
  return block;
}

Decoder randomDecoder(Random& random) {
  Decoder decoder{};
  std::vector<const Routines*> sets;
  forEachSet([&](const Routines& routines) { sets.push_back(&routines); });
  decoder.routines = sets[random.below(sets.size())];
  decoder.hidden = random.between(1, 150);
  decoder.levels = random.between(1, 6);
  // Some are so long that attention cuts a sequence into stretches.
  decoder.longest = random.chance(8) ? random.between(300, 700) : random.between(20, 200);
  // Every third has attention alone, so that it narrows; every third of the others scans alone.
  const bool attends = random.chance(3), scans = random.chance(3);
  for (size_t count = random.between(1, 3); count > 0; count--) {
    decoder.blocks.push_back(randomBlockOf(random, decoder, attends || (!scans && random.chance(2))));
  }
  const size_t vocabulary = random.between(1, 100);
  decoder.head = randomLinear(random, decoder, {Cut::outputs, 1, {1}, decoder.hidden, 32, Activation::none},
                              {std::vector<size_t>(decoder.levels, vocabulary)});
  return decoder;
}

// Caches are full of what must not be read; states begin with zeros.
Progress begin(const Decoder& decoder, size_t level) {
  Progress progress;
  progress.level = level;
  for (const Block& block : decoder.blocks) {
    Sequence cache{};
    ScannedSequence states{};
    if (block.attends) {
      cache.width = block.widths[level];
      cache.capacity = (decoder.longest + keyTokens - 1) / keyTokens * keyTokens;
      cache = withoutCache(block.attention, cache, NAN);
    } else {
      const ScanShape& shape = block.scanned.shape;
      states.channels = block.widths[level];
      states.states = block.states[level];
      states.convX.assign((shape.taps - 1) * shape.heads * states.channels, 0);
      states.convBc.assign((shape.taps - 1) * 2 * shape.groups * states.states, 0);
      states.state.assign(shape.heads * states.states * states.channels, 0);
    }
    progress.attended.push_back(cache);
    progress.scanned.push_back(states);
  }
  return progress;
}

// The first `kept` of every `of`.
std::vector<Half> firstOf(const std::vector<Half>& values, size_t kept, size_t of) {
  std::vector<Half> result;
  for (size_t i = 0; i < values.size(); i++) {
    if (i % of < kept) result.push_back(values[i]);
  }
  return result;
}

// Goes on at a narrower level: of every head of every token the first components stay.
void narrow(const Decoder& decoder, Progress& progress, size_t level) {
  progress.level = level;
  for (size_t b = 0; b < decoder.blocks.size(); b++) {
    Sequence& cache = progress.attended[b];
    const size_t from = cache.width, to = decoder.blocks[b].widths[level];
    const size_t widest = decoder.blocks[b].attention.shape.widest;
    cache.keys = firstOf(cache.keys, to * keyTokens, from * keyTokens);
    cache.values = firstOf(cache.values, to, from);
    cache.width = to;
    for (size_t i = 0; i < cache.packed.size(); i++) {
      if (i % widest >= to) cache.packed[i] = 0;
    }
  }
}

std::vector<float> multiply(const Decoder& decoder, const Linear& linear, const std::vector<float>& x,
                            const std::vector<size_t>& levels, const std::vector<float>& residual,
                            const Manner& manner) {
  Batch batch;
  batch.x = x;
  batch.normWeight = linear.norm;
  batch.residual = residual;
  batch.levels = levels;
  const std::vector<float> y =
      run(*linear.product, linear.layer, batch, 0, levels.size(), false, manner.order, manner.fill);
  if (manner.places) {
    const size_t row = manner.places->below(levels.size());
    checkRow(*decoder.routines, linear.layer, linear.levels, batch, row, y.data() + row * linear.layer.outputs);
  }
  return y;
}

// Packed rows of all sequences, each as many as its `rows` says, through the attention of a block.
std::vector<float> attendRows(const Decoder& decoder, size_t b, std::vector<Progress>& sequences,
                              const std::vector<size_t>& rows, const std::vector<float>& packed, const Manner& manner) {
  const AttentionCase& test = decoder.blocks[b].attention;
  const size_t perRow = test.heads() * test.shape.widest, perHead = test.shape.widest;
  std::vector<Sequence> caches;
  std::vector<size_t> firstTokens;
  const float* from = packed.data();
  for (size_t i = 0; i < sequences.size(); i++) {
    Sequence& cache = sequences[i].attended[b];
    cache.before = sequences[i].length;
    cache.rows = rows[i];
    cache.packed.insert(cache.packed.end(), from, from + rows[i] * perRow);
    extendAngles(cache, test.frequencies, cache.tokens());
    from += rows[i] * perRow;
    firstTokens.push_back(cache.before);
    caches.push_back(std::move(cache));
  }
  Outcome outcome = attend(*decoder.routines, test, std::move(caches), firstTokens, manner.order, manner.fill);
  if (manner.places) {
    const size_t i = manner.places->below(sequences.size()), row = manner.places->below(rows[i]);
    const size_t head = manner.places->below(test.shape.queryHeads);
    const float* found = outcome.y[i].data() + (row * test.shape.queryHeads + head) * perHead;
    checkQuery(*decoder.routines, test, outcome.sequences[i], row, head, found);
  }
  std::vector<float> y;
  for (size_t i = 0; i < sequences.size(); i++) {
    sequences[i].attended[b] = std::move(outcome.sequences[i]);
    y.insert(y.end(), outcome.y[i].begin(), outcome.y[i].end());
  }
  return y;
}

// The same through the scan of a block.
std::vector<float> scanRows(const Decoder& decoder, size_t b, std::vector<Progress>& sequences,
                            const std::vector<size_t>& rows, const std::vector<float>& packed, const Manner& manner) {
  const Block& block = decoder.blocks[b];
  std::vector<ScannedSequence> states;
  for (size_t i = 0; i < sequences.size(); i++) {
    states.push_back(sequences[i].scanned[b]);
    states.back().rows = rows[i];
  }
  const std::vector<float> y = runScan(*block.scan, packed, states, manner.order, manner.fill);
  if (manner.places) {
    const size_t i = manner.places->below(sequences.size());
    ScannedSequence before = sequences[i].scanned[b];
    before.rows = rows[i];
    size_t first = 0;
    for (size_t other = 0; other < i; other++) first += rows[other];
    const ScanShape& shape = block.scanned.shape;
    checkScanned(*decoder.routines, block.scanned, packed.data() + first * shape.columns(), before, states[i],
                 y.data() + first * shape.heads * shape.channels);
  }
  for (size_t i = 0; i < sequences.size(); i++) sequences[i].scanned[b] = states[i];
  return y;
}

// The next rows x of several sequences, the widest first, through all blocks. Their caches and states go on.
std::vector<float> step(const Decoder& decoder, std::vector<Progress>& sequences, const std::vector<size_t>& rows,
                        std::vector<float> x, const Manner& manner) {
  std::vector<size_t> levels;
  for (size_t i = 0; i < sequences.size(); i++) levels.insert(levels.end(), rows[i], sequences[i].level);
  for (size_t b = 0; b < decoder.blocks.size(); b++) {
    const Block& block = decoder.blocks[b];
    const std::vector<float> packed = multiply(decoder, block.in, x, levels, {}, manner);
    const std::vector<float> mixed = block.attends ? attendRows(decoder, b, sequences, rows, packed, manner)
                                                   : scanRows(decoder, b, sequences, rows, packed, manner);
    x = multiply(decoder, block.out, mixed, levels, x, manner);
    x = multiply(decoder, block.down, multiply(decoder, block.up, x, levels, {}, manner), levels, x, manner);
  }
  for (size_t i = 0; i < sequences.size(); i++) sequences[i].length += rows[i];
  return multiply(decoder, decoder.head, x, levels, {}, manner);
}

bool sameProgress(const Progress& a, const Progress& b) {
  bool same = a.length == b.length;
  for (size_t i = 0; i < a.attended.size(); i++) {
    const Sequence &one = a.attended[i], &other = b.attended[i];
    same = same && one.keys.size() == other.keys.size() &&
           sameBits(one.keys.data(), other.keys.data(), one.keys.size()) &&
           sameBits(one.values.data(), other.values.data(), one.values.size()) && a.scanned[i].sameStates(b.scanned[i]);
  }
  return same;
}

// A sequence from its beginning, alone, narrowed where it was narrowed, but cut into other steps.
void replay(Random& random, const Decoder& decoder, const OpenSequence& sequence) {
  const auto& [progress, history] = sequence;
  if (history.stretches.empty()) return;
  std::vector<Progress> again{begin(decoder, history.stretches[0].level)};
  const size_t outputs = decoder.head.layer.outputs;
  bool same = true;
  for (const History::Stretch& stretch : history.stretches) {
    if (stretch.level != again[0].level) narrow(decoder, again[0], stretch.level);
    for (size_t done = 0; done < stretch.rows;) {
      const size_t rows = std::min(stretch.rows - done, random.between(1, 30));
      const float* x = history.x.data() + again[0].length * decoder.hidden;
      const float* wanted = history.logits.data() + again[0].length * outputs;
      const std::vector<float> logits =
          step(decoder, again, {rows}, std::vector<float>(x, x + rows * decoder.hidden), {forward, 0xff, nullptr});
      same = same && sameBits(logits.data(), wanted, logits.size());
      done += rows;
    }
  }
  if (progress.level != again[0].level) narrow(decoder, again[0], progress.level);
  check(same && sameProgress(progress, again[0]), "%s: a sequence of %zu tokens differs when it is run again",
        decoder.routines->name, progress.length);
}

// Sequences that take part in a step, and each one's next rows: a prefill at the beginning and now and then later.
struct Turn {
  std::vector<OpenSequence*> takers;
  std::vector<size_t> rows;
};

Turn randomTurn(Random& random, const Decoder& decoder, std::vector<OpenSequence>& open) {
  Turn turn;
  for (OpenSequence& sequence : open) {
    if (sequence.progress.length < decoder.longest && !random.chance(4)) turn.takers.push_back(&sequence);
  }
  std::stable_sort(turn.takers.begin(), turn.takers.end(),
                   [](const OpenSequence* a, const OpenSequence* b) { return a->progress.level < b->progress.level; });
  for (const OpenSequence* taker : turn.takers) {
    const bool prefills = taker->progress.length == 0 || random.chance(16);
    const size_t rows = prefills ? random.between(1, std::max(size_t{40}, decoder.longest / 2)) : 1;
    turn.rows.push_back(std::min(rows, decoder.longest - taker->progress.length));
  }
  return turn;
}

// One step of several sequences on threads, and each of them alone.
void checkStep(Random& random, const Decoder& decoder, const Turn& turn) {
  const size_t outputs = decoder.head.layer.outputs;
  size_t total = 0;
  std::vector<Progress> together;
  for (size_t i = 0; i < turn.takers.size(); i++) {
    together.push_back(turn.takers[i]->progress);
    total += turn.rows[i];
  }
  const std::vector<float> x = random.floats(total * decoder.hidden);
  const size_t threads = random.between(1, 4);
  const std::vector<float> logits = step(decoder, together, turn.rows, x, {teamOf(threads), 0x77, &random});
  check(std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); }),
        "%s: logits that are no numbers", decoder.routines->name);
  size_t first = 0;
  for (size_t i = 0; i < turn.takers.size(); i++) {
    auto& [progress, history] = *turn.takers[i];
    const size_t rows = turn.rows[i];
    const auto own = [&](const std::vector<float>& of, size_t perRow) {
      return std::vector<float>(of.begin() + static_cast<long>(first * perRow),
                                of.begin() + static_cast<long>((first + rows) * perRow));
    };
    const std::vector<float> ownX = own(x, decoder.hidden), ownLogits = own(logits, outputs);
    std::vector<Progress> alone{progress};
    const std::vector<float> single = step(decoder, alone, {rows}, ownX, {forward, 0xff, nullptr});
    check(sameBits(single.data(), ownLogits.data(), single.size()) && sameProgress(alone[0], together[i]),
          "%s: sequence %zu of %zu differs alone", decoder.routines->name, i, turn.takers.size());
    if (history.stretches.empty() || history.stretches.back().level != progress.level) {
      history.stretches.push_back({progress.level, 0});
    }
    history.stretches.back().rows += rows;
    history.x.insert(history.x.end(), ownX.begin(), ownX.end());
    history.logits.insert(history.logits.end(), ownLogits.begin(), ownLogits.end());
    progress = together[i];
    first += rows;
  }
}

// What steps had to do, to be told.
struct DecoderCounts {
  size_t steps = 0, rows = 0, opened = 0, narrowed = 0, mixed = 0;
};

void checkDecoder(Random& random, size_t steps, DecoderCounts& counts) {
  const Decoder decoder = randomDecoder(random);
  const size_t slots = random.between(1, 8);
  std::vector<OpenSequence> open;
  while (steps > 0) {
    std::snprintf(currentCase, sizeof(currentCase), "decoder of %zu blocks, %zu wide, %zu levels, step %zu",
                  decoder.blocks.size(), decoder.hidden, decoder.levels, counts.steps);
    for (size_t i = open.size(); i-- > 0;) {
      if (open[i].progress.length < decoder.longest && !random.chance(40)) continue;
      replay(random, decoder, open[i]);
      open.erase(open.begin() + static_cast<long>(i));
    }
    if (open.empty() || (open.size() < slots && random.chance(3))) {
      open.push_back({begin(decoder, random.below(decoder.levels)), {}});
      counts.opened++;
    }
    for (OpenSequence& sequence : open) {
      const size_t level = sequence.progress.level;
      if (!decoder.narrows() || level + 1 == decoder.levels || !random.chance(20)) continue;
      narrow(decoder, sequence.progress, random.between(level + 1, decoder.levels - 1));
      counts.narrowed++;
    }
    const Turn turn = randomTurn(random, decoder, open);
    if (turn.takers.empty()) continue;
    checkStep(random, decoder, turn);
    counts.mixed += turn.takers.front()->progress.level != turn.takers.back()->progress.level;
    for (const size_t rows : turn.rows) counts.rows += rows;
    counts.steps++;
    steps--;
  }
  for (const OpenSequence& sequence : open) replay(random, decoder, sequence);
}

}  // namespace
}  // namespace espalier

// Products of random layers and batches: against plain loops, and against themselves cut, alone and on threads.
#pragma once

#include "../prefix_product.h"
#include "checks.h"
#include "tasks.h"

namespace espalier {
namespace {

struct Layer {
  ProductShape shape;
  std::vector<StoredChunk> chunks;
  std::vector<std::vector<uint8_t>> codes;
  std::vector<std::vector<uint16_t>> scales;
  std::vector<std::vector<float>> biases;
  size_t inputs = 0, outputs = 0, levels = 0;
  size_t widest[maxAxes] = {};

  size_t rowsOf(const StoredChunk& chunk) const {
    return shape.cut == Cut::inputs ? shape.uncut : shape.channelsOf(chunk);
  }
  size_t columnsOf(const StoredChunk& chunk) const {
    return shape.cut == Cut::inputs ? shape.channelsOf(chunk) : shape.uncut;
  }

  void add(const StoredChunk& chunk) {
    for (size_t axis = 0; axis < shape.axes; axis++) widest[axis] += chunk.widths[axis];
    chunks.push_back(chunk);
    levels = std::max(levels, chunk.level + 1);
  }

  // Calls visit(output, chunk, stored row) for every stored row where outputs are cut.
  template <typename Visit>
  void forEachOutput(Visit&& visit) const {
    size_t starts[maxAxes] = {};
    for (const StoredChunk& chunk : chunks) {
      size_t row = 0, first = 0;
      for (size_t axis = 0; axis < shape.axes; axis++) {
        for (size_t group = 0; group < shape.groups[axis]; group++) {
          for (size_t i = 0; i < chunk.widths[axis]; i++) {
            visit(first + group * widest[axis] + starts[axis] + i, chunk, row++);
          }
        }
        first += shape.groups[axis] * widest[axis];
        starts[axis] += chunk.widths[axis];
      }
    }
  }
};

// Draws the weights of a layer that has its shape and its chunks' extents.
void drawWeights(Random& random, Layer& layer, bool biased) {
  const Cut cut = layer.shape.cut;
  const size_t blockSize = layer.shape.blockSize;
  for (StoredChunk& chunk : layer.chunks) {
    const size_t rows = layer.rowsOf(chunk), blocks = (layer.columnsOf(chunk) + blockSize - 1) / blockSize;
    layer.codes.push_back(random.bytes(rows * blocks * blockSize / 2));
    layer.scales.push_back(random.halves(rows * blocks));
    layer.biases.push_back(random.floats(biased && !random.chance(4) ? rows : 0));
  }
  size_t channels = 0;
  for (size_t c = 0; c < layer.chunks.size(); c++) {
    layer.chunks[c].codes = layer.codes[c].data();
    layer.chunks[c].scales = layer.scales[c].data();
    layer.chunks[c].bias = layer.biases[c].empty() ? nullptr : layer.biases[c].data();
    channels += layer.shape.channelsOf(layer.chunks[c]);
  }
  layer.inputs = cut == Cut::inputs ? channels : layer.shape.uncut;
  layer.outputs = cut == Cut::inputs ? layer.shape.uncut : cut == Cut::gated ? layer.widest[0] : channels;
}

// A layer; with `large`, one of which the weights are several tasks.
Layer randomLayer(Random& random, Cut cut, size_t blockSize, bool large) {
  Layer layer;
  const size_t uncut = large ? random.between(1000, 2500) : random.between(1, random.chance(4) ? 700 : 150);
  layer.shape = {cut, 1, {}, uncut, blockSize, Activation::none};
  if (cut == Cut::outputs) {
    if (random.chance(3)) layer.shape.axes = random.between(2, maxAxes);
    if (random.chance(3)) layer.shape.activation = Activation::squaredRelu;
  }
  for (size_t axis = 0; axis < layer.shape.axes; axis++) {
    layer.shape.groups[axis] = cut == Cut::gated ? 2 : random.between(1, 5);
  }
  const size_t count = random.between(1, 6);
  size_t level = random.below(8);
  const bool biased = random.chance(2);
  for (size_t c = 0; c < count; c++) {
    StoredChunk chunk{nullptr, nullptr, nullptr, {}, level};
    for (size_t axis = 0; axis < layer.shape.axes; axis++) {
      const bool none = axis > 0 && random.chance(3);
      chunk.widths[axis] = none               ? 0
                           : random.chance(3) ? 16 * random.between(1, 3)
                                              : random.between(1, (large ? 120 : 40) / layer.shape.axes);
    }
    layer.add(chunk);
    level -= random.below(level + 1) / 2;
  }
  drawWeights(random, layer, biased);
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
  if (layer.shape.cut == Cut::inputs ? !random.chance(4) : random.chance(4))
    batch.residual = random.floats(rows * layer.outputs);
  const bool alike = random.chance(4);
  const size_t one = random.below(layer.levels);
  for (size_t row = 0; row < rows; row++) batch.levels.push_back(alike ? one : random.below(layer.levels));
  std::sort(batch.levels.begin(), batch.levels.end());
  return batch;
}

// Rows first to last of a batch. With `whole`, every row takes all chunks.
std::vector<float> run(const PrefixProduct& product, const Layer& layer, const Batch& batch, size_t first, size_t last,
                       bool whole, const Order& order, uint8_t fill) {
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
  carryOut(order, PrefixProduct::loops,
           [&](const Parallel& parallel) { product.run(productRun, memory.data(), parallel); });
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
  const auto add = [&](size_t output, const StoredChunk& chunk, size_t n, const Quantized& quantized) {
    const size_t blocks = (layer.columnsOf(chunk) + shape.blockSize - 1) / shape.blockSize;
    const bool kept = level <= chunk.level;
    Estimate& total = totals[output];
    if (chunk.bias && (kept || shape.cut == Cut::inputs)) {
      total.value += chunk.bias[n];
      total.error += std::fabs(chunk.bias[n]);
    }
    if (!kept) return;
    blocksOf[output] += static_cast<double>(blocks);
    for (size_t block = 0; block < blocks; block++) {
      int64_t dot = 0;
      for (size_t i = 0; i < shape.blockSize; i++) {
        const uint8_t byte = chunk.codes[((n * blocks + block) * shape.blockSize + i) / 2];
        dot += ((i % 2 ? byte >> 4 : byte & 15) - 8) * quantized.codes[block * shape.blockSize + i];
      }
      const double term = static_cast<double>(dot) * fromHalf(chunk.scales[n * blocks + block]) *
                          static_cast<double>(quantized.scales[block]);
      total.value += term;
      total.error += std::fabs(term);
    }
  };
  if (shape.cut != Cut::inputs) {
    const Quantized quantized = quantizePlainly(x.data(), shape.uncut, shape.blockSize);
    layer.forEachOutput([&](size_t output, const StoredChunk& chunk, size_t n) { add(output, chunk, n, quantized); });
  } else {
    size_t start = 0;
    for (const StoredChunk& chunk : layer.chunks) {
      std::vector<float> part;
      for (size_t g = 0; g < shape.groups[0]; g++) {
        for (size_t i = 0; i < chunk.widths[0]; i++) part.push_back(x[g * layer.widest[0] + start + i]);
      }
      const Quantized quantized = quantizePlainly(part.data(), part.size(), shape.blockSize);
      for (size_t n = 0; n < shape.uncut; n++) add(n, chunk, n, quantized);
      start += chunk.widths[0];
    }
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
    if (shape.activation == Activation::squaredRelu) {
      const double positive = std::max(totals[i].value, 0.0);
      estimates[i].value = positive * positive;
      estimates[i].error = (2 * positive + totals[i].error) * totals[i].error + 2 * u * estimates[i].value + 1e-44;
    }
    if (!batch.residual.empty()) {
      estimates[i].value += batch.residual[row * layer.outputs + i];
      estimates[i].error += u * (std::fabs(estimates[i].value) + estimates[i].error);
    }
  }
  return estimates;
}

// The narrowest level that computes each output.
std::vector<size_t> levelsOf(const Layer& layer) {
  std::vector<size_t> levels(layer.outputs, layer.levels);
  if (layer.shape.cut == Cut::inputs) return levels;
  layer.forEachOutput([&](size_t output, const StoredChunk& chunk, size_t) {
    if (output < layer.outputs) levels[output] = chunk.level;
  });
  return levels;
}

// Holds a row that was computed against plain loops. `levels` are the layer's `levelsOf`.
void checkRow(const Routines& routines, const Layer& layer, const std::vector<size_t>& levels, const Batch& batch,
              size_t row, const float* y) {
  const std::vector<Estimate> wanted = estimateRow(routines, layer, batch, row);
  for (size_t i = 0; i < layer.outputs; i++) {
    if (batch.levels[row] > levels[i]) continue;
    check(within(y[i], wanted[i]), "%s: row %zu, output %zu: %.9g, wanted %.9g ± %.2g", routines.name, row, i,
          static_cast<double>(y[i]), wanted[i].value, wanted[i].error);
  }
}

// The same rows with what their levels drop set to zero: the input of a masked run.
Batch masked(const Layer& layer, const Batch& batch) {
  Batch result = batch;
  if (layer.shape.cut != Cut::inputs) return result;
  for (size_t row = 0; row < batch.levels.size(); row++) {
    size_t start = 0;
    for (const StoredChunk& chunk : layer.chunks) {
      for (size_t g = 0; g < layer.shape.groups[0] && batch.levels[row] > chunk.level; g++) {
        float* dropped = result.x.data() + row * layer.inputs + g * layer.widest[0] + start;
        for (size_t i = 0; i < chunk.widths[0]; i++) dropped[i] = 0;
      }
      start += chunk.widths[0];
    }
  }
  return result;
}

void checkProduct(Random& random, Cut cut, size_t blockSize, size_t rows, bool large = false) {
  const Layer layer = randomLayer(random, cut, blockSize, large);
  Batch batch = randomBatch(random, layer, rows);
  spoil(random, batch.x);
  static constexpr const char* cuts[] = {"outputs", "gated", "inputs"};
  int length = std::snprintf(currentCase, sizeof(currentCase),
                             "%s cut, %zu axes, %zu groups, uncut %zu, blocks of %zu, %zu rows%s%s%s%s, chunks",
                             cuts[static_cast<int>(cut)], layer.shape.axes, layer.shape.groups[0], layer.shape.uncut,
                             blockSize, rows, layer.shape.activation == Activation::squaredRelu ? ", squared ReLU" : "",
                             layer.chunks[0].bias ? ", bias" : "", batch.normWeight.empty() ? "" : ", norm",
                             batch.residual.empty() ? "" : ", residual");
  for (const StoredChunk& chunk : layer.chunks) {
    length += std::snprintf(currentCase + length, sizeof(currentCase) - static_cast<size_t>(length), " %zu@%zu",
                            chunk.widths[0], chunk.level);
  }
  const Batch maskedBatch = masked(layer, batch);
  const std::vector<size_t> levels = levelsOf(layer);
  const auto keeps = [&](size_t row, size_t output) { return batch.levels[row] <= levels[output]; };
  forEachSet([&](const Routines& routines) {
    PrefixProduct* product = PrefixProduct::create(routines, layer.shape, layer.chunks.data(), layer.chunks.size());
    check(product && product->inputs() == layer.inputs && product->outputs() == layer.outputs &&
              product->levels() == layer.levels,
          "%s: extents", routines.name);
    if (!product) return;
    const std::vector<float> y = run(*product, layer, batch, 0, rows, false, forward, 0x00);

    for (size_t row = 0; row<rows; row += rows> 17 ? 7 : 1) {
      checkRow(routines, layer, levels, batch, row, y.data() + row * layer.outputs);
      const std::vector<float> alone = run(*product, layer, batch, row, row + 1, false, forward, 0xff);
      check(sameBits(alone.data(), y.data() + row * layer.outputs, layer.outputs), "%s: row %zu differs alone",
            routines.name, row);
    }

    const std::vector<float> whole = run(*product, layer, maskedBatch, 0, rows, true, forward, 0xff);
    for (size_t row = 0; row < rows; row++) {
      bool same = true;
      for (size_t i = 0; i < layer.outputs; i++) {
        const size_t at = row * layer.outputs + i;
        const float wanted = keeps(row, i) ? whole[at] : batch.residual.empty() ? 0.0f : batch.residual[at] + 0.0f;
        same = same && sameBits(&wanted, &y[at], 1);
      }
      check(same, "%s: prefix and mask differ in row %zu", routines.name, row);
    }

    const std::vector<float> reversed = run(*product, layer, batch, 0, rows, false, backward, 0xff);
    check(sameBits(reversed.data(), y.data(), y.size()), "%s: the order of tasks shows", routines.name);
    for (size_t threads : {size_t{1}, size_t{2}, size_t{4}}) {
      const std::vector<float> threaded = run(*product, layer, batch, 0, rows, false, teamOf(threads), 0x77);
      check(sameBits(threaded.data(), y.data(), y.size()), "%s: %zu threads show", routines.name, threads);
    }
    delete product;
  });
}

}  // namespace
}  // namespace espalier

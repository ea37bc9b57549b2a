// Products of random layers and batches, against double precision and against themselves alone.
#pragma once

#include "../../parity/products.h"
#include "../prefix_product.h"
#include "device.h"

namespace espalier::cuda {
namespace {

// Halves of a layer's inputs and weights are off by 2^-11 of themselves, or by half the least subnormal.
constexpr double halfRounding = 0x1p-11, halfLeast = 0x1p-25;

// One row in double precision, from what the layer stores.
std::vector<Estimate> estimateExactly(const Layer& layer, const Batch& batch, size_t row) {
  const ProductShape& shape = layer.shape;
  const size_t level = batch.levels[row];
  std::vector<double> x(layer.inputs);
  double squares = 0;
  for (size_t i = 0; i < layer.inputs; i++) {
    x[i] = static_cast<double>(batch.x[row * layer.inputs + i]);
    squares += x[i] * x[i];
  }
  if (!batch.normWeight.empty()) {
    const double factor =
        1 / std::sqrt(squares / static_cast<double>(layer.inputs) + static_cast<double>(batch.epsilon));
    for (size_t i = 0; i < layer.inputs; i++) x[i] *= factor * static_cast<double>(batch.normWeight[i]);
  }
  const size_t sums = shape.cut == Cut::gated ? 2 * layer.outputs : layer.outputs;
  std::vector<Estimate> totals(sums);
  const auto add = [&](size_t output, const StoredChunk& chunk, size_t n, const std::vector<double>& part) {
    const size_t blocks = (part.size() + shape.blockSize - 1) / shape.blockSize;
    const bool kept = level <= chunk.level;
    Estimate& total = totals[output];
    if (chunk.bias && (kept || shape.cut == Cut::inputs)) {
      total.value += static_cast<double>(chunk.bias[n]);
      total.error += 1e-6 * std::fabs(static_cast<double>(chunk.bias[n]));
    }
    if (!kept) return;
    for (size_t k = 0; k < part.size(); k++) {
      const size_t block = k / shape.blockSize;
      const uint8_t byte = chunk.codes[(n * blocks * shape.blockSize + k) / 2];
      const double scale = fromHalf(chunk.scales[n * blocks + block]);
      const double weight = ((k % 2 ? byte >> 4 : byte & 15) - 8) * scale;
      total.value += weight * part[k];
      // The product of two rounded halves, and what a sum in floats adds: few roundings, since 16 terms are added at
      // once.
      total.error += (std::fabs(weight) * halfRounding + halfLeast) * (std::fabs(part[k]) * 1.001 + halfLeast) +
                     std::fabs(weight) * (std::fabs(part[k]) * (halfRounding + 1e-5) + halfLeast);
    }
  };
  if (shape.cut != Cut::inputs) {
    layer.forEachOutput([&](size_t output, const StoredChunk& chunk, size_t n) { add(output, chunk, n, x); });
  } else {
    size_t start = 0;
    for (const StoredChunk& chunk : layer.chunks) {
      std::vector<double> part;
      for (size_t g = 0; g < shape.groups[0]; g++) {
        for (size_t i = 0; i < chunk.widths[0]; i++) part.push_back(x[g * layer.widest[0] + start + i]);
      }
      for (size_t n = 0; n < shape.uncut; n++) add(n, chunk, n, part);
      start += chunk.widths[0];
    }
  }
  std::vector<Estimate> estimates(layer.outputs);
  for (size_t i = 0; i < layer.outputs; i++) {
    Estimate& estimate = estimates[i] = totals[i];
    if (shape.cut == Cut::gated) {
      const Estimate &gate = totals[i], &up = totals[layer.outputs + i];
      const double activated = espalier::silu(gate.value);
      estimate.value = activated * up.value;
      estimate.error = 1.1 * gate.error * (std::fabs(up.value) + up.error) + std::fabs(activated) * up.error +
                       1e-5 * std::fabs(estimate.value) + 1e-30;
    }
    if (shape.activation == Activation::squaredRelu) {
      const double positive = std::max(totals[i].value, 0.0);
      estimate.value = positive * positive;
      estimate.error = (2 * positive + totals[i].error) * totals[i].error + 1e-6 * estimate.value;
    }
    if (!batch.residual.empty()) estimate.value += static_cast<double>(batch.residual[row * layer.outputs + i]);
    estimate.error += 1e-6 * std::fabs(estimate.value) + 1e-30;
  }
  return estimates;
}

// Rows first to last of a batch.
std::vector<float> multiply(CheckedDevice& device, const ProductDevice& as, const Layer& layer, const Batch& batch,
                            size_t first, size_t last) {
  const size_t rows = last - first;
  std::vector<int64_t> rowsUpTo(layer.levels, 0);
  for (size_t row = first; row < last; row++) {
    for (size_t level = batch.levels[row]; level < layer.levels; level++) rowsUpTo[level]++;
  }
  DeviceMemory memory(device);
  ProductPlan plan;
  const char* reason = planProduct(layer.shape, layer.chunks.data(), layer.chunks.size(), &plan);
  check(!reason, "%s", reason ? reason : "");
  if (reason) return {};
  std::vector<uint8_t> packed(plan.packedBytes());
  packProduct(layer.shape, layer.chunks.data(), layer.chunks.size(), plan, packed.data());
  ProductParameters p = placeProduct(plan, memory.upload(packed));
  check(static_cast<size_t>(p.inputs) == layer.inputs && static_cast<size_t>(p.outputs) == layer.outputs, "extents");
  p.epsilon = batch.epsilon;
  p.rows = static_cast<int>(rows);
  p.x = memory.upload(std::vector<float>(batch.x.begin() + static_cast<long>(first * layer.inputs),
                                         batch.x.begin() + static_cast<long>(last * layer.inputs)));
  p.rowsUpTo = memory.upload(rowsUpTo);
  if (!batch.normWeight.empty()) p.normWeight = memory.upload(batch.normWeight);
  if (!batch.residual.empty()) {
    p.residual = memory.upload(std::vector<float>(batch.residual.begin() + static_cast<long>(first * layer.outputs),
                                                  batch.residual.begin() + static_cast<long>(last * layer.outputs)));
  }
  std::vector<float> y(rows * layer.outputs, NAN);
  p.y = memory.upload(y);
  if (const size_t bytes = preparedBytes(p, p.rows, as))
    p.prepared = memory.upload(std::vector<uint16_t>(bytes / 2, 0x7fff));
  ProductLaunch launches[2];
  const size_t count = productLaunches(p, p.rows, as, launches);
  for (size_t i = 0; i < count; i++) {
    const ProductLaunch& l = launches[i];
    device.launch(productKernels[static_cast<size_t>(l.kernel)], {l.gridX, l.gridY, 1}, l.threads, l.sharedBytes, &p,
                  sizeof(p));
  }
  memory.download(p.y, y);
  return y;
}

void checkProductOnDevice(CheckedDevice& device, Random& random, Cut cut, size_t blockSize, size_t rows, bool large) {
  const Layer layer = randomLayer(random, cut, blockSize, large);
  Batch batch = randomBatch(random, layer, rows);
  // What halves can hold; beyond it the product is infinite, as in any model in halves.
  static constexpr float sizes[] = {1, 1, 30, 1e-3f};
  batch.x = random.floats(rows * layer.inputs, sizes[random.below(4)]);
  static constexpr const char* cuts[] = {"outputs", "gated", "inputs"};
  int length = std::snprintf(currentCase, sizeof(currentCase),
                             "%s cut, %zu axes, uncut %zu, blocks of %zu, %zu rows%s%s%s", cuts[static_cast<int>(cut)],
                             layer.shape.axes, layer.shape.uncut, blockSize, rows, layer.chunks[0].bias ? ", bias" : "",
                             batch.normWeight.empty() ? "" : ", norm", batch.residual.empty() ? "" : ", residual");
  for (const StoredChunk& chunk : layer.chunks) {
    length += std::snprintf(currentCase + length, sizeof(currentCase) - static_cast<size_t>(length), " %zux%zu@%zu",
                            layer.shape.groups[0], chunk.widths[0], chunk.level);
  }
  const std::vector<size_t> levels = levelsOf(layer);
  // As a small device would, too, and as one without warpgroups: other kernels, and fewer blocks that do more.
  const ProductDevice as{random.chance(2) ? device.multiprocessors() : 4,
                         device.computeCapability() == 90 && !random.chance(3)};
  const std::vector<float> y = multiply(device, as, layer, batch, 0, rows);
  if (y.empty()) return;
  for (size_t row = 0; row<rows; row += rows> 17 ? 13 : 1) {
    const std::vector<Estimate> wanted = estimateExactly(layer, batch, row);
    for (size_t i = 0; i < layer.outputs; i++) {
      const float found = y[row * layer.outputs + i];
      if (batch.levels[row] > levels[i]) {
        const float dropped = batch.residual.empty() ? 0.0f : batch.residual[row * layer.outputs + i];
        check(found == dropped, "row %zu, output %zu: %.9g where nothing is kept", row, i, static_cast<double>(found));
        continue;
      }
      check(within(found, wanted[i]), "row %zu, output %zu: %.9g, wanted %.9g ± %.2g", row, i,
            static_cast<double>(found), wanted[i].value, wanted[i].error);
    }
  }
  // Few rows do not see each other: alone has the same bits.
  if (rows > static_cast<size_t>(mostFewRows)) return;
  const size_t row = random.below(rows);
  const std::vector<float> alone = multiply(device, as, layer, batch, row, row + 1);
  check(sameBits(alone.data(), y.data() + row * layer.outputs, layer.outputs), "row %zu differs alone", row);
}

void checkProducts(CheckedDevice& device, Random& random, size_t cases) {
  static constexpr size_t blockSizes[] = {32, 64, 128}, rows[] = {1, 1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 129, 140, 270};
  static constexpr Cut cuts[] = {Cut::outputs, Cut::gated, Cut::inputs};
  for (size_t i = 0; i < cases; i++) {
    checkProductOnDevice(device, random, cuts[i % 3], blockSizes[i / 3 % 3], rows[random.below(14)], random.chance(12));
  }
}

}  // namespace
}  // namespace espalier::cuda

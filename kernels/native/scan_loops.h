// The state-space recurrence for any kind of vector, see `Simd` in the file of each instruction set. Everything has
// internal linkage, see generic_routines.h.
//
// A lane belongs to one channel throughout, and its operations go on in the same order, so that neither the tile sizes
// nor the cut into runs show.
#pragma once

#include "generic_routines.h"

namespace espalier {
namespace {

// `rows` rows of `vectors` vectors of channels, the last of them with `few` channels: the state passes by once.
template <typename Simd, size_t rows, size_t vectors, bool whole>
void scanTile(const ScanStretch& p, size_t row, size_t channel, size_t few) {
  using Vector = typename Simd::Vector;
  const auto load = [few](const float* from, size_t v) {
    return whole || v + 1 < vectors ? Simd::load(from + v * Simd::lanes) : Simd::loadFew(from + v * Simd::lanes, few);
  };
  const auto store = [few](float* to, size_t v, Vector value) {
    if (whole || v + 1 < vectors) {
      Simd::store(to + v * Simd::lanes, value);
    } else {
      Simd::storeFew(to + v * Simd::lanes, value, few);
    }
  };
  float* x = p.x + row * p.xStride + channel;
  const float* b = p.b + row * p.bcStride;
  const float* c = p.c + row * p.bcStride;
  Vector decays[rows], scaled[rows][vectors], y[rows][vectors];
  for (size_t r = 0; r < rows; r++) {
    decays[r] = Simd::broadcast(p.decays[row + r]);
    const Vector delta = Simd::broadcast(p.deltas[row + r]);
    for (size_t v = 0; v < vectors; v++) {
      scaled[r][v] = Simd::multiplyAdd(delta, load(x + r * p.xStride, v), Simd::zero());
      y[r][v] = Simd::zero();
    }
  }
  float* state = p.state + channel;
  for (size_t n = 0; n < p.states; n++, state += p.channels) {
    Vector s[vectors];
    for (size_t v = 0; v < vectors; v++) s[v] = load(state, v);
    for (size_t r = 0; r < rows; r++) {
      const Vector in = Simd::broadcast(b[r * p.bcStride + n]), out = Simd::broadcast(c[r * p.bcStride + n]);
      for (size_t v = 0; v < vectors; v++) {
        s[v] = Simd::multiplyAdd(in, scaled[r][v], Simd::multiplyAdd(decays[r], s[v], Simd::zero()));
        y[r][v] = Simd::multiplyAdd(out, s[v], y[r][v]);
      }
    }
    for (size_t v = 0; v < vectors; v++) store(state, v, s[v]);
  }
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < vectors; v++) {
      const Vector skipped = Simd::multiplyAdd(load(p.skip + channel, v), load(x + r * p.xStride, v), y[r][v]);
      store(x + r * p.xStride, v, skipped);
    }
  }
}

// All rows of a stretch in one tile of channels.
template <typename Simd, size_t vectors, bool whole>
void scanChannels(const ScanStretch& p, size_t channel, size_t few) {
  size_t row = 0;
  for (; row + 4 <= p.rows; row += 4) scanTile<Simd, 4, vectors, whole>(p, row, channel, few);
  if (row + 2 <= p.rows) {
    scanTile<Simd, 2, vectors, whole>(p, row, channel, few);
    row += 2;
  }
  if (row < p.rows) scanTile<Simd, 1, vectors, whole>(p, row, channel, few);
}

template <typename Simd>
void scanWith(const ScanStretch& p) {
  // One row has registers to spare: it takes twice as many channels at a time.
  constexpr size_t vectors = Simd::vectors / 2, lanes = Simd::lanes;
  size_t channel = 0;
  for (; p.rows == 1 && channel + 2 * vectors * lanes <= p.channels; channel += 2 * vectors * lanes) {
    scanTile<Simd, 1, 2 * vectors, true>(p, 0, channel, lanes);
  }
  for (; channel + vectors * lanes <= p.channels; channel += vectors * lanes) {
    scanChannels<Simd, vectors, true>(p, channel, lanes);
  }
  for (; channel < p.channels; channel += lanes) {
    const size_t left = p.channels - channel;
    scanChannels<Simd, 1, false>(p, channel, left < lanes ? left : lanes);
  }
}

}  // namespace
}  // namespace espalier

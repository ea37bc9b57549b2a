// Attention over a stretch of a cache, for any kind of vector. Each instruction set brings its own: a type `Simd` with
// lanes (a divisor of 16), vectors (registers of a tile's row) and the few operations below. Caches are halves, which
// become floats as they are read. Everything has internal linkage, see generic_routines.h.
//
// Scores and weighted values are both tiles of up to four queries: scores against `lanes * vectors` tokens, whose keys
// lie side by side, and values over as many components. A lane belongs to one token or component throughout, and its
// sum goes on in the same order, so that tile sizes do not show.
#pragma once

#include <type_traits>

#include "generic_routines.h"

namespace espalier {
namespace {

constexpr size_t tileQueries = 4;

// Tokens whose scores are kept at a time; the greatest score and the sums are brought up to date after each.
constexpr size_t scoreTokens = 64;

// scores[q][t] = queries[q] . key t, for `rows` queries and `vectors` vectors of tokens. Beside each key it asks memory
// for what lies `ahead` halves behind it, unless that is 0.
template <typename Simd, size_t rows, size_t vectors>
inline __attribute__((always_inline)) void scoreTile(const float* queries, size_t width, const Half* keys, size_t ahead,
                                                     float* scores) {
  constexpr size_t perBlock = keyTokens / Simd::lanes;
  typename Simd::Vector sums[rows][vectors];
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < vectors; v++) sums[r][v] = Simd::zero();
  }
  for (size_t i = 0; i < width; i++) {
    typename Simd::Vector key[vectors];
    for (size_t v = 0; v < vectors; v++) {
      const Half* at = keys + v / perBlock * width * keyTokens + i * keyTokens + v % perBlock * Simd::lanes;
      if (ahead > 0 && i * keyTokens % lineHalves == 0 && v % perBlock == 0) __builtin_prefetch(at + ahead);
      key[v] = Simd::loadHalves(at);
    }
    for (size_t r = 0; r < rows; r++) {
      const typename Simd::Vector query = Simd::broadcast(queries[r * width + i]);
      for (size_t v = 0; v < vectors; v++) sums[r][v] = Simd::multiplyAdd(query, key[v], sums[r][v]);
    }
  }
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < vectors; v++) Simd::store(scores + r * scoreTokens + v * Simd::lanes, sums[r][v]);
  }
}

// sums[q][i] += weights[q][t] * value t [i], for `rows` queries and `vectors` vectors of components. The last vector
// has `lastLanes` lanes. `ahead` as above.
template <typename Simd, size_t rows, size_t vectors>
inline __attribute__((always_inline)) void weighTile(const float* weights, size_t tokens, const Half* values,
                                                     size_t width, size_t lastLanes, size_t ahead, float* sums) {
  const auto whole = [lastLanes](size_t v) { return v + 1 < vectors || lastLanes == Simd::lanes; };
  typename Simd::Vector totals[rows][vectors];
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < vectors; v++) {
      const float* from = sums + r * width + v * Simd::lanes;
      totals[r][v] = whole(v) ? Simd::load(from) : Simd::loadFew(from, lastLanes);
    }
  }
  for (size_t t = 0; t < tokens; t++) {
    typename Simd::Vector value[vectors];
    for (size_t v = 0; v < vectors; v++) {
      const Half* from = values + t * width + v * Simd::lanes;
      if (ahead > 0 && v * Simd::lanes % lineHalves == 0) __builtin_prefetch(from + ahead);
      value[v] = whole(v) ? Simd::loadHalves(from) : Simd::loadFewHalves(from, lastLanes);
    }
    for (size_t r = 0; r < rows; r++) {
      const typename Simd::Vector weight = Simd::broadcast(weights[r * scoreTokens + t]);
      for (size_t v = 0; v < vectors; v++) totals[r][v] = Simd::multiplyAdd(weight, value[v], totals[r][v]);
    }
  }
  for (size_t r = 0; r < rows; r++) {
    for (size_t v = 0; v < vectors; v++) {
      float* to = sums + r * width + v * Simd::lanes;
      if (whole(v)) {
        Simd::store(to, totals[r][v]);
      } else {
        Simd::storeFew(to, totals[r][v], lastLanes);
      }
    }
  }
}

// Calls body with the count as a constant: 1 to `most`.
template <size_t most, typename Body>
inline __attribute__((always_inline)) void withConstant(size_t count, Body&& body) {
  if constexpr (most > 1) {
    if (count < most) return withConstant<most - 1>(count, body);
  }
  body(std::integral_constant<size_t, most>{});
}

// Turns one query's scores into weights and rescales its sums if a greater score came. Sixteen partial sums.
inline void weigh(float* scores, size_t visible, size_t width, float* greatest, float* total, float* sums) {
  const size_t whole = (visible + lanes - 1) / lanes * lanes;
  // Scores behind the last visible one are of keys that may not be there.
  for (size_t t = visible; t < whole; t++) scores[t] = scores[0];
  float most[lanes];
  for (size_t i = 0; i < lanes; i++) most[i] = scores[i];
  for (size_t t = lanes; t < whole; t += lanes) {
    for (size_t i = 0; i < lanes; i++) most[i] = scores[t + i] > most[i] ? scores[t + i] : most[i];
  }
  float newest = *greatest;
  for (size_t i = 0; i < lanes; i++) newest = most[i] > newest ? most[i] : newest;
  if (newest > *greatest) {
    const float shrink = exponential(*greatest - newest);
    *total *= shrink;
    for (size_t i = 0; i < width; i++) sums[i] *= shrink;
    *greatest = newest;
  }
  for (size_t t = 0; t < whole; t++) scores[t] = exponential(scores[t] - newest);
  for (size_t t = visible; t < scoreTokens; t++) scores[t] = 0;
  float partial[lanes] = {};
  for (size_t t = 0; t < whole; t += lanes) {
    for (size_t i = 0; i < lanes; i++) partial[i] += scores[t + i];
  }
  *total += sumLanes(partial);
}

// Asks memory for all that few queries soon read: in blocks so short the processor does not notice in time how they go
// on.
inline void prefetchCaches(const Half* keys, const Half* values, size_t halves) {
  for (size_t i = 0; i < halves; i += lineHalves) {
    __builtin_prefetch(keys + i);
    __builtin_prefetch(values + i);
  }
}

template <typename Simd>
void attendWith(const AttentionStretch& p) {
  constexpr size_t tile = Simd::lanes * Simd::vectors;
  alignas(64) float scores[tileQueries * scoreTokens];
  bool asked = false;  // memory, for the block that comes
  for (size_t first = p.first; first < p.last; first += scoreTokens) {
    const size_t last = first + scoreTokens < p.last ? first + scoreTokens : p.last;
    const Half* keys = p.keys + first * p.width;
    const Half* values = p.values + first * p.width;
    // Few queries wait for memory. What they read next is asked for while they compute, if it is a whole block.
    const bool few = p.count <= tileQueries;
    if (few && !asked) prefetchCaches(keys, values, (last - first) * p.width);
    asked = few && last + scoreTokens <= p.last;
    const size_t ahead = asked ? scoreTokens * p.width : 0;
    for (size_t query = 0; query < p.count; query += tileQueries) {
      const size_t rows = p.count - query < tileQueries ? p.count - query : tileQueries;
      size_t visible[tileQueries], most = 0;
      for (size_t r = 0; r < rows; r++) {
        const size_t end = p.visible[query + r] < last ? p.visible[query + r] : last;
        visible[r] = end > first ? end - first : 0;
        most = visible[r] > most ? visible[r] : most;
      }
      if (most == 0) continue;
      const float* queries = p.queries + query * p.width;
      float* sums = p.sums + query * p.width;
      withConstant<tileQueries>(rows, [&](auto rowCount) {
        for (size_t t = 0; t < most; t += tile) {
          const size_t vectors = most - t < tile ? (most - t + Simd::lanes - 1) / Simd::lanes : Simd::vectors;
          withConstant<Simd::vectors>(vectors, [&](auto vectorCount) {
            scoreTile<Simd, decltype(rowCount)::value, decltype(vectorCount)::value>(
                queries, p.width, keys + t / keyTokens * keyTokens * p.width + t % keyTokens, ahead, scores + t);
          });
        }
        for (size_t r = 0; r < rows; r++) {
          float* row = scores + r * scoreTokens;
          if (visible[r] == 0) {
            for (size_t t = 0; t < most; t++) row[t] = 0;
          } else {
            weigh(row, visible[r], p.width, p.greatest + query + r, p.totals + query + r, sums + r * p.width);
          }
        }
        for (size_t i = 0; i < p.width; i += tile) {
          const size_t components = p.width - i < tile ? p.width - i : tile;
          const size_t vectors = (components + Simd::lanes - 1) / Simd::lanes;
          withConstant<Simd::vectors>(vectors, [&](auto vectorCount) {
            weighTile<Simd, decltype(rowCount)::value, decltype(vectorCount)::value>(
                scores, most, values + i, p.width, components - (vectors - 1) * Simd::lanes, ahead, sums + i);
          });
        }
      });
    }
  }
}

template <typename Simd>
void toHalvesWith(const float* x, size_t count, Half* y) {
  size_t i = 0;
  for (; i + Simd::lanes <= count; i += Simd::lanes) Simd::storeHalves(y + i, Simd::load(x + i));
  if (i == count) return;
  Half last[Simd::lanes];
  Simd::storeHalves(last, Simd::loadFew(x + i, count - i));
  std::memcpy(y + i, last, (count - i) * sizeof(Half));
}

[[maybe_unused]] void joinGeneric(size_t width, float* greatest, float* total, float* sums, float otherGreatest,
                                  float otherTotal, const float* otherSums) {
  if (otherTotal == 0.0f) return;
  if (*total == 0.0f) {
    *greatest = otherGreatest;
    *total = otherTotal;
    std::memcpy(sums, otherSums, width * sizeof(float));
    return;
  }
  const float most = otherGreatest > *greatest ? otherGreatest : *greatest;
  const float mine = exponential(*greatest - most), other = exponential(otherGreatest - most);
  *greatest = most;
  *total = *total * mine + otherTotal * other;
  for (size_t i = 0; i < width; i++) sums[i] = sums[i] * mine + otherSums[i] * other;
}

}  // namespace
}  // namespace espalier

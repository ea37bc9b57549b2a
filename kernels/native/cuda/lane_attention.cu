// Attention by the tensor cores' m16n8k16: scores are queries (16 rows) against tokens, values are weights of tokens
// against components, both summed in floats. The softmax is brought up to date slice by slice; scores are kept times
// log2 e, so that weights are powers of two.
//
// Components are padded to a multiple of 16: queries with zeros, caches with what was appended behind a narrower row,
// which is finite. So a product over them adds zeros. Tokens that a query does not see have the weight 0, and those
// behind the last that anybody sees are loaded as zeros.
#include "device.cuh"
#include "lane_attention.h"
#include "lanes.cuh"

namespace espalier::cuda {
namespace {

constexpr int warps = 4;
constexpr int threads = 32 * warps;
constexpr int sliceTokens = 16;  // that a warp of the few-rows kernel takes at a time
constexpr int headTile = 16;
constexpr int queryTile = 64;
constexpr float log2e = 1.44269504f;

// Shared rows are longer by 16 bytes: eight of them lie in different banks.
template <int width>
constexpr int strideOf = width + 8;

// Components of a lane's heads, and what the kernels make of them.
struct Widths {
  int kept;    // that the level has
  int padded;  // to a multiple of 16
  int stored;  // of the padded ones, those that a row of a cache has room for
};

__device__ __forceinline__ Widths widthsOf(const AttentionParameters& p, const LaneLine& line) {
  Widths widths;
  widths.kept = p.widths[line.level];
  widths.padded = (widths.kept + 15) / 16 * 16;
  widths.stored = min(widths.padded, p.widest);
  return widths;
}

// Pair `pair` of a head in the packed rows, zero behind what is kept.
__device__ __forceinline__ float2 packedPair(const AttentionParameters& p, int row, int head, int pair, int kept) {
  if (2 * pair >= kept) return make_float2(0, 0);
  const size_t heads = static_cast<size_t>(p.queryHeads + 2 * p.keyHeads);
  const float* at = p.packed + (static_cast<size_t>(row) * heads + static_cast<size_t>(head)) * p.widest + 2 * pair;
  const float2 x = *reinterpret_cast<const float2*>(at);
  return make_float2(x.x, 2 * pair + 1 < kept ? x.y : 0);
}

// The same of a query or key head, turned by its row's angle.
__device__ __forceinline__ float2 turnedPair(const AttentionParameters& p, int row, int head, int keyHead, int pair,
                                             int kept) {
  const float2 x = packedPair(p, row, head, pair, kept);
  if (!p.cosines || 2 * pair >= kept) return x;
  const int frequency = static_cast<int>(p.pairs[keyHead * (p.widest / 2) + pair]);
  const size_t at = static_cast<size_t>(row) * p.frequencies + frequency;
  const float cosine = p.cosines[at], sine = p.sines[at];
  return make_float2(x.x * cosine - x.y * sine, x.x * sine + x.y * cosine);
}

__device__ __forceinline__ void storePair(__half* to, float2 pair) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(pair.x, pair.y);
}

// Where a key head of a lane's sequence has its tokens.
__device__ __forceinline__ size_t cacheOf(const AttentionParameters& p, const LaneLine& line, int keyHead) {
  return (static_cast<size_t>(line.slot) * p.keyHeads + keyHead) * p.capacity * static_cast<size_t>(p.widest);
}

__device__ __forceinline__ void writeOutput(const AttentionParameters& p, int row, int head, int component, float2 pair,
                                            int kept) {
  if (component >= p.widest) return;
  float* y = p.y + (static_cast<size_t>(row) * p.queryHeads + head) * p.widest + component;
  *reinterpret_cast<float2*>(y) = make_float2(component < kept ? pair.x : 0, component + 1 < kept ? pair.y : 0);
}

// Eight halves of a token's row into shared memory; zeros if it is not there or the chunk lies behind its end. Rows
// whose stride is no multiple of 16 bytes are copied by pairs, by the time this returns.
__device__ __forceinline__ void loadChunk(const AttentionParameters& p, const __half* cache, int token, int chunk,
                                          bool there, __half* to) {
  const __half* from = cache + static_cast<size_t>(token) * p.widest + 8 * chunk;
  if (p.widest % 8 == 0) {
    const bool some = there && 8 * chunk < p.widest;
    cpAsync16(to, some ? from : cache, some ? 16 : 0);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const bool some = there && 8 * chunk + i < p.widest;
    *reinterpret_cast<uint32_t*>(to + i) = some ? *reinterpret_cast<const uint32_t*>(from + i) : 0;
  }
}

// scores[t] += queries (16 by `padded`, as fragments come) against 16 tokens.
__device__ __forceinline__ void multiplyKeys(const uint32_t query[4], const __half* keys, int stride, int step,
                                             float (*scores)[4]) {
  const int lane = laneIndex();
  uint32_t key[4];
  loadMatrices(key, keys + (lane / 16 * 8 + lane % 8) * stride + 16 * step + lane / 8 % 2 * 8);
  mma16816(scores[0], query, key);
  mma16816(scores[1], query, key + 2);
}

// sums[c] += weights of 16 tokens against 16 components of their values.
__device__ __forceinline__ void multiplyValues(const uint32_t weights[4], const __half* values, int stride, int step,
                                               float (*sums)[4]) {
  const int lane = laneIndex();
  uint32_t value[4];
  loadMatrices<true>(value, values + (lane % 16) * stride + 16 * step + lane / 16 * 8);
  mma16816(sums[0], weights, value);
  mma16816(sums[1], weights, value + 2);
}

// A softmax that is not divided yet, of the two rows that a lane shares with three others: g = lane / 4 and g + 8.
struct Softmax {
  float greatest[2] = {-INFINITY, -INFINITY};
  float totals[2] = {0, 0};  // this lane's part

  // Turns scores of `tiles` by 8 tokens, -infinity where they are not seen, into weights. What the sums so far are to
  // be multiplied by comes to `shrink`. Every row must have seen a token by now.
  template <int tiles>
  __device__ __forceinline__ void weigh(float (*scores)[4], float shrink[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float most = greatest[half];
#pragma unroll
      for (int t = 0; t < tiles; t++) most = fmaxf(most, fmaxf(scores[t][2 * half], scores[t][2 * half + 1]));
      most = fmaxf(most, __shfl_xor_sync(allLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(allLanes, most, 2));
      shrink[half] = exp2f(greatest[half] - most);
      greatest[half] = most;
      float total = 0;
#pragma unroll
      for (int t = 0; t < tiles; t++) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; i++) {
          scores[t][i] = exp2f(scores[t][i] - most);
          total += scores[t][i];
        }
      }
      totals[half] = totals[half] * shrink[half] + total;
    }
  }

  __device__ __forceinline__ float total(int half) const {
    float sum = totals[half];
    sum += __shfl_xor_sync(allLanes, sum, 1);
    return sum + __shfl_xor_sync(allLanes, sum, 2);
  }
};

// Weights of 16 tokens as the left operand of a product.
__device__ __forceinline__ void packWeights(const float (*scores)[4], uint32_t weights[4]) {
  weights[0] = packHalves(scores[0][0], scores[0][1]);
  weights[1] = packHalves(scores[0][2], scores[0][3]);
  weights[2] = packHalves(scores[1][0], scores[1][1]);
  weights[3] = packHalves(scores[1][2], scores[1][3]);
}

// ---- few rows

// One row's heads of one key head, at most 16, as a block sees them.
struct FewRows {
  LaneLine line;
  Widths widths;
  int row, keyHead, firstHead, heads;
  int own;      // the row's token
  int cached;   // tokens that were there before this run
  int stretch;  // tokens
  int count;    // stretches

  __device__ int visible() const { return own + 1; }
  // The row of the batch that a token of this run comes from.
  __device__ int rowOf(int token) const { return line.firstRow + token - cached; }
};

// What the stretches of a row and head leave for the block that joins them.
struct Partials {
  float* sums;    // [rows][H][maxStretches][width]
  float2* stats;  // [rows][H][maxStretches]: greatest score, total
};

template <int width>
__device__ __forceinline__ Partials partialsOf(const AttentionParameters& p) {
  Partials partials;
  partials.sums = static_cast<float*>(p.work);
  const size_t queries = static_cast<size_t>(p.rows) * p.queryHeads;
  partials.stats = reinterpret_cast<float2*>(partials.sums + queries * maxStretches * width);
  return partials;
}

// Joins all stretches of a row's heads, in order.
template <int width>
__device__ __forceinline__ void joinStretches(const AttentionParameters& p, const FewRows& task, float* weights) {
  const Partials partials = partialsOf<width>(p);
  const int lane = laneIndex(), warp = static_cast<int>(threadIdx.x / 32);
  const size_t firstQuery = static_cast<size_t>(task.row) * p.queryHeads + task.firstHead;
  for (int head = warp; head < task.heads; head += warps) {
    float2 stats = make_float2(-INFINITY, 0);
    if (lane < task.count) stats = __ldcg(partials.stats + (firstQuery + head) * maxStretches + lane);
    const float weight = exp2f(stats.x - warpMax(stats.x));
    weights[head * maxStretches + lane] = weight / warpSum(weight * stats.y);
  }
  __syncthreads();
  constexpr int quads = width / 4;
  for (int i = static_cast<int>(threadIdx.x); i < task.heads * quads; i += threads) {
    const int head = i / quads, component = i % quads * 4;
    if (component >= p.widest) continue;
    const float* from = partials.sums + (firstQuery + head) * maxStretches * width + component;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int s = 0; s < task.count; s++) {
      const float4 part = __ldcg(reinterpret_cast<const float4*>(from + s * width));
      const float weight = weights[head * maxStretches + s];
      sum.x += weight * part.x;
      sum.y += weight * part.y;
      sum.z += weight * part.z;
      sum.w += weight * part.w;
    }
    writeOutput(p, task.row, task.firstHead + head, component, make_float2(sum.x, sum.y), task.widths.kept);
    writeOutput(p, task.row, task.firstHead + head, component + 2, make_float2(sum.z, sum.w), task.widths.kept);
  }
}

// Joins what the block's warps found in one stretch, and writes the rows if there is no other.
template <int width>
__device__ __forceinline__ void joinWarps(const AttentionParameters& p, const FewRows& task, int stretch,
                                          const float* found, int floatsPerWarp) {
  const Partials partials = partialsOf<width>(p);
  constexpr int quads = width / 4;
  for (int i = static_cast<int>(threadIdx.x); i < task.heads * quads; i += threads) {
    const int head = i / quads, component = i % quads * 4;
    float greatest = -INFINITY;
#pragma unroll
    for (int w = 0; w < warps; w++) greatest = fmaxf(greatest, found[w * floatsPerWarp + headTile * width + head]);
    float total = 0;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < warps; w++) {
      const float* of = found + w * floatsPerWarp;
      const float weight = exp2f(of[headTile * width + head] - greatest);
      const float4 part = *reinterpret_cast<const float4*>(of + head * width + component);
      total += weight * of[headTile * width + headTile + head];
      sum.x += weight * part.x;
      sum.y += weight * part.y;
      sum.z += weight * part.z;
      sum.w += weight * part.w;
    }
    if (task.count == 1) {
      const float inverse = 1.0f / total;
      const int of = task.firstHead + head, kept = task.widths.kept;
      writeOutput(p, task.row, of, component, make_float2(sum.x * inverse, sum.y * inverse), kept);
      writeOutput(p, task.row, of, component + 2, make_float2(sum.z * inverse, sum.w * inverse), kept);
      continue;
    }
    const size_t query = static_cast<size_t>(task.row) * p.queryHeads + task.firstHead + head;
    const size_t at = query * maxStretches + stretch;
    *reinterpret_cast<float4*>(partials.sums + at * width + component) = sum;
    if (component == 0) partials.stats[at] = make_float2(greatest, total);
  }
}

template <int width>
__device__ __forceinline__ void attendFewRows(const AttentionParameters& p) {
  constexpr int stride = strideOf<width>, chunks = width / 8, tokensAtOnce = 32 / chunks;
  constexpr int stageHalves = 2 * sliceTokens * stride;
  const int lane = laneIndex(), warp = static_cast<int>(threadIdx.x / 32);
  __half* const stages = dynamicShared<__half>() + warp * 2 * stageHalves;
  __half* const queries = dynamicShared<__half>() + warps * 2 * stageHalves;

  const int perKey = p.queryHeads / p.keyHeads, tiles = divideUp(perKey, headTile);
  FewRows task;
  task.row = static_cast<int>(blockIdx.z);
  task.keyHead = static_cast<int>(blockIdx.y) / tiles;
  const int tile = static_cast<int>(blockIdx.y) % tiles;
  task.firstHead = task.keyHead * perKey + tile * headTile;
  task.heads = min(headTile, perKey - tile * headTile);
  if (!findLane(p.lanes, p.laneCount, task.row, &task.line)) {
    if (blockIdx.x > 0) return;
    waitForPrevious();
    for (int i = static_cast<int>(threadIdx.x); i < task.heads * (width / 2); i += threads) {
      writeOutput(p, task.row, task.firstHead + i / (width / 2), i % (width / 2) * 2, make_float2(0, 0), 0);
    }
    return;
  }
  task.widths = widthsOf(p, task.line);
  task.cached = task.line.length - task.line.rows;
  task.own = task.cached + task.row - task.line.firstRow;
  task.stretch = divideUp(divideUp(task.visible(), stretchUnit), maxStretches) * stretchUnit;
  task.count = divideUp(task.visible(), task.stretch);
  if (static_cast<int>(blockIdx.x) >= task.count) return;

  const size_t cache = cacheOf(p, task.line, task.keyHead);
  __half* const keyCache = reinterpret_cast<__half*>(p.keys) + cache;
  __half* const valueCache = reinterpret_cast<__half*>(p.values) + cache;

  // The slice's tokens from the caches, and zeros for those that are not seen. Nothing of it is written by this launch
  // or the one before it.
  const auto loadCached = [&](int first, __half* keys) {
    const int chunk = lane % chunks;
    if (8 * chunk >= task.widths.padded) return;
#pragma unroll
    for (int i = 0; i < sliceTokens; i += tokensAtOnce) {
      const int place = i + lane / chunks, token = first + place;
      if (token >= task.cached && token < task.visible()) continue;
      loadChunk(p, keyCache, token, chunk, token < task.cached, keys + place * stride + 8 * chunk);
      loadChunk(p, valueCache, token, chunk, token < task.cached, keys + (sliceTokens + place) * stride + 8 * chunk);
    }
  };
  // The slice's tokens that come with this run.
  const auto loadNew = [&](int first, __half* keys) {
    const int last = min(first + sliceTokens, task.visible());
    for (int token = max(first, task.cached); token < last; token++) {
      __half* const key = keys + (token - first) * stride;
      for (int pair = lane; 2 * pair < task.widths.padded; pair += 32) {
        const int row = task.rowOf(token), kept = task.widths.kept;
        storePair(key + 2 * pair, turnedPair(p, row, p.queryHeads + task.keyHead, task.keyHead, pair, kept));
        storePair(key + sliceTokens * stride + 2 * pair,
                  packedPair(p, row, p.queryHeads + p.keyHeads + task.keyHead, pair, kept));
      }
    }
  };

  bool waited = false;
  for (int stretch = static_cast<int>(blockIdx.x); stretch < task.count; stretch += static_cast<int>(gridDim.x)) {
    const int begin = stretch * task.stretch + warp * sliceTokens;
    const int end = min((stretch + 1) * task.stretch, task.visible());
    constexpr int step = warps * sliceTokens;
    if (begin < end) loadCached(begin, stages);
    cpAsyncCommit();
    if (begin + step < end) loadCached(begin + step, stages + stageHalves);
    cpAsyncCommit();
    if (!waited) {
      waited = true;
      waitForPrevious();
      letNextStart();
      for (int i = static_cast<int>(threadIdx.x); i < headTile * (width / 2); i += threads) {
        const int head = i / (width / 2), pair = i % (width / 2);
        const float2 turned = head < task.heads
                                  ? turnedPair(p, task.row, task.firstHead + head, task.keyHead, pair, task.widths.kept)
                                  : make_float2(0, 0);
        storePair(queries + head * stride + 2 * pair, turned);
      }
      __syncthreads();
    }
    if (begin < end) loadNew(begin, stages);
    if (begin + step < end) loadNew(begin + step, stages + stageHalves);

    Softmax softmax;
    float sums[width / 8][4] = {};
    __half* keys = stages;
    for (int first = begin; first < end; first += step) {
      cpAsyncWait<1>();
      __syncwarp();
      float scores[2][4] = {};
#pragma unroll
      for (int i = 0; i < width / 16; i++) {
        if (16 * i >= task.widths.padded) break;
        uint32_t query[4];
        loadMatrices(query, queries + (lane % 16) * stride + 16 * i + lane / 16 * 8);
        multiplyKeys(query, keys, stride, i, scores);
      }
#pragma unroll
      for (int t = 0; t < 2; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int token = first + 8 * t + lane % 4 * 2 + i % 2;
          scores[t][i] = token < end ? scores[t][i] * (p.scale * log2e) : -INFINITY;
        }
      }
      float shrink[2];
      softmax.weigh<2>(scores, shrink);
      uint32_t weights[4];
      packWeights(scores, weights);
#pragma unroll
      for (int i = 0; i < width / 16; i++) {
        if (16 * i >= task.widths.padded) break;
#pragma unroll
        for (int j = 0; j < 8; j++) sums[2 * i + j / 4][j % 4] *= shrink[j % 4 / 2];
        multiplyValues(weights, keys + sliceTokens * stride, stride, i, sums + 2 * i);
      }
      __syncwarp();
      if (first + 2 * step < end) {
        loadCached(first + 2 * step, keys);
        loadNew(first + 2 * step, keys);
      }
      cpAsyncCommit();
      keys = keys == stages ? stages + stageHalves : stages;
    }

    // A warp leaves what it found where its slices were.
    constexpr int floatsPerWarp = stageHalves;  // of two stages
    static_assert(headTile * (width + 2) <= floatsPerWarp);
    cpAsyncWait<0>();
    __syncwarp();
    float* const found = reinterpret_cast<float*>(stages);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int head = lane / 4 + 8 * half;
      const float total = softmax.total(half);
      if (head >= task.heads) continue;
#pragma unroll
      for (int c = 0; c < width / 8; c++) {
        *reinterpret_cast<float2*>(found + head * width + 8 * c + lane % 4 * 2) =
            make_float2(sums[c][2 * half], sums[c][2 * half + 1]);
      }
      if (lane % 4 > 0) continue;
      found[headTile * width + head] = softmax.greatest[half];
      found[headTile * width + headTile + head] = total;
    }
    __syncthreads();
    joinWarps<width>(p, task, stretch, dynamicShared<float>(), floatsPerWarp);

    // Whoever has the row's own token appends it.
    if (stretch == task.count - 1 && tile == 0) {
      const size_t at = static_cast<size_t>(task.own) * p.widest;
      for (int pair = static_cast<int>(threadIdx.x); 2 * pair < task.widths.stored; pair += threads) {
        const int kept = task.widths.kept;
        storePair(keyCache + at + 2 * pair,
                  turnedPair(p, task.row, p.queryHeads + task.keyHead, task.keyHead, pair, kept));
        storePair(valueCache + at + 2 * pair,
                  packedPair(p, task.row, p.queryHeads + p.keyHeads + task.keyHead, pair, kept));
      }
    }
    __syncthreads();
  }

  if (task.count == 1) return;
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* const arrived = p.arrived + task.row * gridDim.y + blockIdx.y;
    last = atomicAdd(arrived, 1u) + 1 == min(gridDim.x, static_cast<unsigned>(task.count));
    if (last) *arrived = 0;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  joinStretches<width>(p, task, dynamicShared<float>());
}

// ---- many rows

template <int width>
__device__ __forceinline__ void attendManyRows(const AttentionParameters& p) {
  constexpr int stride = strideOf<width>, chunks = width / 8, rowsAtOnce = threads / chunks;
  constexpr int tileTokens = width > 128 ? 32 : 64;
  constexpr int stageHalves = 2 * tileTokens * stride;
  constexpr bool keepsQueries = width <= 128;  // in registers
  const int lane = laneIndex(), warp = static_cast<int>(threadIdx.x / 32);
  __half* const stages = dynamicShared<__half>();
  __half* const queries = stages + 2 * stageHalves;

  // The lane and the tile of its queries. The last queries see most, so they come first.
  const int perKey = p.queryHeads / p.keyHeads, keyHead = static_cast<int>(blockIdx.x);
  int tile = static_cast<int>(blockIdx.y), found = -1;
  for (int first = 0; first < p.laneCount && found < 0; first += 32) {
    const int i = first + lane;
    const int own = i < p.laneCount ? divideUp(p.lanes[i].rows * perKey, queryTile) : 0;
    int upTo = own;
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
      const int before = __shfl_up_sync(allLanes, upTo, by);
      if (lane >= by) upTo += before;
    }
    const unsigned past = __ballot_sync(allLanes, tile < upTo);
    if (past == 0) {
      tile -= __shfl_sync(allLanes, upTo, 31);
      continue;
    }
    const int of = __ffs(static_cast<int>(past)) - 1;
    found = first + of;
    tile = __shfl_sync(allLanes, upTo, of) - 1 - tile;
  }
  if (found < 0) return;
  const LaneLine line = readLine(p.lanes + found);
  const Widths widths = widthsOf(p, line);
  const int firstQuery = tile * queryTile, count = min(queryTile, line.rows * perKey - firstQuery);
  const int cached = line.length - line.rows;
  const int end = cached + (firstQuery + count - 1) / perKey + 1;  // tokens that any of the queries sees
  const size_t cache = cacheOf(p, line, keyHead);
  const __half* const keyCache = reinterpret_cast<const __half*>(p.keys) + cache;
  const __half* const valueCache = reinterpret_cast<const __half*>(p.values) + cache;
  const int chunk = static_cast<int>(threadIdx.x) % chunks, place = static_cast<int>(threadIdx.x) / chunks;
  const bool padded = 8 * chunk < widths.padded;

  const auto load = [&](int first, __half* keys) {
    if (!padded) return;
#pragma unroll
    for (int i = 0; i < tileTokens; i += rowsAtOnce) {
      const int token = first + i + place;
      __half* const to = keys + (i + place) * stride + 8 * chunk;
      loadChunk(p, keyCache, token, chunk, token < end, to);
      loadChunk(p, valueCache, token, chunk, token < end, to + tileTokens * stride);
    }
  };

  waitForPrevious();
  letNextStart();
  for (int i = place; padded && i < queryTile; i += rowsAtOnce) {
    const int query = firstQuery + min(i, count - 1);
    const size_t at =
        static_cast<size_t>(line.firstRow + query / perKey) * p.queryHeads + keyHead * perKey + query % perKey;
    cpAsync16(queries + i * stride + 8 * chunk, static_cast<const __half*>(p.work) + at * width + 8 * chunk,
              i < count ? 16 : 0);
  }
  load(0, stages);
  cpAsyncCommit();

  // Tokens that the queries of this lane's two rows see, and those of the warp's first and last query.
  int visible[2];
  visible[0] = cached + (firstQuery + 16 * warp + lane / 4) / perKey + 1;
  visible[1] = cached + (firstQuery + 16 * warp + lane / 4 + 8) / perKey + 1;
  const int allVisible = cached + (firstQuery + 16 * warp) / perKey + 1;
  const int anyVisible = 16 * warp < count ? cached + (firstQuery + 16 * warp + 15) / perKey + 1 : 0;

  Softmax softmax;
  float sums[width / 8][4] = {};
  uint32_t kept[keepsQueries ? width / 16 : 1][4];
  __half* keys = stages;
  for (int first = 0; first < end; first += tileTokens) {
    __half* const next = keys == stages ? stages + stageHalves : stages;
    if (first + tileTokens < end) load(first + tileTokens, next);
    cpAsyncCommit();
    cpAsyncWait<1>();
    __syncthreads();
    if (keepsQueries && first == 0) {
#pragma unroll
      for (int i = 0; i < width / 16; i++) {
        if (16 * i >= widths.padded) break;
        loadMatrices(kept[keepsQueries ? i : 0], queries + (16 * warp + lane % 16) * stride + 16 * i + lane / 16 * 8);
      }
    }
    if (first < anyVisible) {
      float scores[tileTokens / 8][4] = {};
#pragma unroll
      for (int i = 0; i < width / 16; i++) {
        if (16 * i >= widths.padded) break;
        uint32_t loaded[4];
        if (!keepsQueries) {
          loadMatrices(loaded, queries + (16 * warp + lane % 16) * stride + 16 * i + lane / 16 * 8);
        }
#pragma unroll
        for (int t = 0; t < tileTokens / 16; t++) {
          multiplyKeys(keepsQueries ? kept[keepsQueries ? i : 0] : loaded, keys + 16 * t * stride, stride, i,
                       scores + 2 * t);
        }
      }
      const bool masked = first + tileTokens > allVisible;
#pragma unroll
      for (int t = 0; t < tileTokens / 8; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          scores[t][i] *= p.scale * log2e;
          if (masked && first + 8 * t + lane % 4 * 2 + i % 2 >= visible[i / 2]) scores[t][i] = -INFINITY;
        }
      }
      float shrink[2];
      softmax.weigh<tileTokens / 8>(scores, shrink);
#pragma unroll
      for (int c = 0; c < width / 8; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[c][i] *= shrink[i / 2];
      }
#pragma unroll
      for (int t = 0; t < tileTokens / 16; t++) {
        uint32_t weights[4];
        packWeights(scores + 2 * t, weights);
#pragma unroll
        for (int i = 0; i < width / 16; i++) {
          if (16 * i >= widths.padded) break;
          multiplyValues(weights, keys + (tileTokens + 16 * t) * stride, stride, i, sums + 2 * i);
        }
      }
    }
    __syncthreads();
    keys = next;
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float inverse = 1.0f / softmax.total(half);
    const int query = 16 * warp + lane / 4 + 8 * half;
    if (query >= count) continue;
    const int row = line.firstRow + (firstQuery + query) / perKey;
    const int head = keyHead * perKey + (firstQuery + query) % perKey;
#pragma unroll
    for (int c = 0; c < width / 8; c++) {
      writeOutput(p, row, head, 8 * c + lane % 4 * 2,
                  make_float2(sums[c][2 * half] * inverse, sums[c][2 * half + 1] * inverse), widths.kept);
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) attendFewRows64(const __grid_constant__ AttentionParameters p) {
  attendFewRows<64>(p);
}
extern "C" __global__ void __launch_bounds__(threads) attendFewRows128(const __grid_constant__ AttentionParameters p) {
  attendFewRows<128>(p);
}
extern "C" __global__ void __launch_bounds__(threads) attendFewRows256(const __grid_constant__ AttentionParameters p) {
  attendFewRows<256>(p);
}
extern "C" __global__ void __launch_bounds__(threads) attendManyRows64(const __grid_constant__ AttentionParameters p) {
  attendManyRows<64>(p);
}
extern "C" __global__ void __launch_bounds__(threads) attendManyRows128(const __grid_constant__ AttentionParameters p) {
  attendManyRows<128>(p);
}
extern "C" __global__ void __launch_bounds__(threads) attendManyRows256(const __grid_constant__ AttentionParameters p) {
  attendManyRows<256>(p);
}

// One block.
extern "C" __global__ void clearCounters(const __grid_constant__ CounterParameters p) {
  waitForPrevious();
  letNextStart();
  for (size_t i = threadIdx.x; i < p.count; i += blockDim.x) p.counters[i] = 0;
}

// A thread per pair of components: a query's goes to `work` as halves [rows][H][compiled width], a key's and a value's
// behind its sequence's tokens. Rows of no lane get zeros for an answer.
extern "C" __global__ void rotateAndAppend(const __grid_constant__ AttentionParameters p) {
  const int shift = p.widest <= 64 ? 5 : p.widest <= 128 ? 6 : 7;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), row = static_cast<int>(blockIdx.y);
  const int head = i >> shift, pair = i & ((1 << shift) - 1);
  LaneLine line;
  const bool there = findLane(p.lanes, p.laneCount, row, &line);
  waitForPrevious();
  letNextStart();
  if (head >= p.queryHeads + 2 * p.keyHeads) return;
  if (!there) {
    if (head < p.queryHeads) writeOutput(p, row, head, 2 * pair, make_float2(0, 0), 0);
    return;
  }
  const Widths widths = widthsOf(p, line);
  if (head < p.queryHeads) {
    if (2 * pair >= widths.padded) return;
    const int keyHead = head / (p.queryHeads / p.keyHeads);
    __half* const query =
        static_cast<__half*>(p.work) + ((static_cast<size_t>(row) * p.queryHeads + head) << (shift + 1));
    storePair(query + 2 * pair, turnedPair(p, row, head, keyHead, pair, widths.kept));
    return;
  }
  if (2 * pair >= widths.stored) return;
  const int keyHead = (head - p.queryHeads) % p.keyHeads;
  const int token = line.length - line.rows + row - line.firstRow;
  const size_t at = cacheOf(p, line, keyHead) + static_cast<size_t>(token) * p.widest + 2 * pair;
  if (head < p.queryHeads + p.keyHeads) {
    storePair(reinterpret_cast<__half*>(p.keys) + at, turnedPair(p, row, head, keyHead, pair, widths.kept));
  } else {
    storePair(reinterpret_cast<__half*>(p.values) + at, packedPair(p, row, head, pair, widths.kept));
  }
}

}  // namespace espalier::cuda

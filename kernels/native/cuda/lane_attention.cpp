#include "lane_attention.h"

#include <algorithm>

namespace espalier::cuda {
namespace {

// More rows than this of one lane are worth sharing what is read from the cache.
constexpr int mostFewRows = 16;
constexpr int threads = 128;

constexpr int warps = threads / 32;
constexpr int queryTile = 64;  // of the many-rows kernel
constexpr int headTile = 16;   // query heads that a block of the few-rows kernel takes
constexpr int rotateThreads = 256;
constexpr int blocksPerMultiprocessor = 8;

int divideUp(int a, int b) { return (a + b - 1) / b; }

// Rows of shared memory are 16 bytes longer than their components, so that eight of them lie in different banks.
constexpr size_t rowBytes(int width) { return (static_cast<size_t>(width) + 8) * 2; }

// Two stages of 16 keys and values for every warp, and the queries.
constexpr size_t fewSharedBytes(int width) { return rowBytes(width) * (warps * 2 * 2 * 16 + headTile); }

// Two stages of keys and values, and the queries.
constexpr size_t manySharedBytes(int width) { return rowBytes(width) * (2 * 2 * (width > 128 ? 32 : 64) + queryTile); }

int headTiles(const AttentionParameters& p) { return divideUp(p.queryHeads / p.keyHeads, headTile); }

// Places among `attentionKernels`.
constexpr size_t manyRowsKernels = 3, rotateKernel = 6;

size_t index(int width) { return width == 64 ? 0 : width == 128 ? 1 : 2; }

}  // namespace

const AttentionKernel attentionKernels[7] = {
    {"attendFewRows64", fewSharedBytes(64)},
    {"attendFewRows128", fewSharedBytes(128)},
    {"attendFewRows256", fewSharedBytes(256)},
    {"attendManyRows64", manySharedBytes(64)},
    {"attendManyRows128", manySharedBytes(128)},
    {"attendManyRows256", manySharedBytes(256)},
    {"rotateAndAppend", 0},
};

int compiledWidth(int widest) { return widest <= 64 ? 64 : widest <= 128 ? 128 : 256; }

bool takesFewRows(const AttentionParameters& p) { return p.rows <= mostFewRows || p.rows <= p.laneCount; }

size_t attentionWorkBytes(const AttentionParameters& p) {
  const size_t width = static_cast<size_t>(compiledWidth(p.widest));
  const size_t queries = static_cast<size_t>(p.rows) * static_cast<size_t>(p.queryHeads);
  if (!takesFewRows(p)) return queries * width * sizeof(uint16_t);
  // Of every stretch its sums, its greatest score and its total.
  return queries * maxStretches * (width + 2) * sizeof(float);
}

size_t attentionCounters(const AttentionParameters& p) {
  return static_cast<size_t>(std::max(mostFewRows, maxLanes) * p.keyHeads * headTiles(p));
}

size_t attentionLaunches(AttentionParameters* p, int multiprocessors, AttentionLaunch out[2]) {
  const int width = compiledWidth(p->widest);
  if (takesFewRows(*p)) {
    const int blocks = p->rows * p->keyHeads * headTiles(*p);
    const int most = divideUp(p->capacity, stretchUnit);
    const int wanted = divideUp(blocksPerMultiprocessor * multiprocessors, blocks);
    p->stretches = most < maxStretches ? most : maxStretches;
    if (wanted < p->stretches) p->stretches = wanted;
    const size_t kernel = index(width);
    out[0] = {kernel,
              {static_cast<unsigned>(p->stretches), static_cast<unsigned>(p->keyHeads * headTiles(*p)),
               static_cast<unsigned>(p->rows)},
              threads,
              attentionKernels[kernel].sharedBytes};
    return 1;
  }
  const int pairs = (p->queryHeads + 2 * p->keyHeads) * (width / 2);
  out[0] = {rotateKernel,
            {static_cast<unsigned>(divideUp(pairs, rotateThreads)), static_cast<unsigned>(p->rows), 1},
            rotateThreads,
            0};
  // A tile never has queries of two lanes; the lanes' rows are known on the device only.
  const int tiles =
      p->rows * (p->queryHeads / p->keyHeads) / queryTile + (p->rows < p->laneCount ? p->rows : p->laneCount);
  const size_t kernel = manyRowsKernels + index(width);
  out[1] = {kernel,
            {static_cast<unsigned>(p->keyHeads), static_cast<unsigned>(tiles), 1},
            threads,
            attentionKernels[kernel].sharedBytes};
  return 2;
}

}  // namespace espalier::cuda

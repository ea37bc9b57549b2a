// The inner loops that exist once per instruction set. Nothing here is inline: a function compiled for one instruction
// set must not be merged by the linker with its namesake from another.
#pragma once

#include <cstddef>
#include <cstdint>

namespace espalier {

// Output rows that lie side by side in a packed matrix.
constexpr size_t tileRows = 16;

// Tiles that one call of `multiplyTiles` takes at most.
constexpr size_t maxTiles = 16;

// Tiles that it may compute at once where their weights are at hand.
constexpr size_t pairTiles = 2;

// Activation rows of a run that waits for its weights; one with more finds them at hand, for all groups of its rows but
// the first. As many as two registers each leave room for in AVX-512: ten are 4 % faster than eight and twelve (Zen 5).
constexpr size_t fewRows = 10;

// Activation rows that lie side by side, and that one call of `multiplyTiles` takes at most. AMX unfolds weights once
// for all of them: with 128 a prefill of 256 takes 5 to 8 % longer.
constexpr size_t maxRows = 256;

// How far ahead of its use `multiplyTiles` asks for weights. Processors do not look so far ahead where many
// instructions stand between two loads: without it 8 rows take 2.1 times as long from memory, and one row 1.1 times
// (Zen 5). With 4 KiB a step of one row takes 4 % longer where each thread has its own way to memory; with 8 KiB it
// takes 3 % longer where two share one (Zen 5, two states of one virtual machine).
constexpr size_t prefetchBytes = 6144;

// Below it, 127 / magnitude is no finite float.
constexpr float leastMagnitude = 0x1p-121f;

// Tiles of sixteen output rows against up to `maxRows` activation rows.
struct TileProduct {
  // One tile behind the other, each as tile_layout.h says; aligned to 64 bytes.
  const uint8_t* weights;
  size_t tiles;
  size_t blocks;
  size_t blockSize;
  // Bytes between the last of these and those that are wanted next: what narrow rows leave out.
  size_t skipped;
  // Int8, every eight columns in the order 0 2 4 6 1 3 5 7, which is how bytes of two codes unfold; laid out as the
  // grouping wants it.
  const int8_t* activations;
  // [blocks][groupRows]: per block the scale, and -8 times the sum of the codes, which takes away the zero point.
  const float* activationScales;
  const int32_t* offsets;
  // Rows that lie side by side, those that take part first.
  size_t groupRows;
  // [tiles][groupRows][16]; added to.
  float* sums;
};

// A number of IEEE 754's half precision, as its bits.
using Half = uint16_t;

// Halves of a line of the processor's cache.
constexpr size_t lineHalves = 32;

// Tokens whose keys lie side by side in a cache: [capacity / 16][width][16].
constexpr size_t keyTokens = 16;

// Queries that one call of `attend` takes at most, and components of a head.
constexpr size_t maxQueries = 32;
constexpr size_t maxHeadWidth = 256;

// Queries of one key/value head against a stretch of its cache. The result is a softmax that is not divided yet, so
// that stretches can be joined.
struct AttentionStretch {
  // [queries][width], rotated and scaled.
  const float* queries;
  size_t count;
  size_t width;
  // [capacity / 16][width][16] and [capacity][width].
  const Half* keys;
  const Half* values;
  // First token of the stretch, a multiple of 16, and the one behind its last.
  size_t first;
  size_t last;
  // [queries]: tokens of the sequence that a query sees. Without any in the stretch, a query is left as it is.
  const size_t* visible;
  // [queries]: the greatest score so far, and the sum of exp(score - greatest).
  float* greatest;
  float* totals;
  // [queries][width]: the sum of exp(score - greatest) times the value.
  float* sums;
};

// Rows of one head through the state-space recurrence: S = decay S + b (delta x), y = c S + skip x.
struct ScanStretch {
  float* state;  // S, [states][channels], goes on
  size_t states;
  size_t channels;
  size_t rows;
  const float* deltas;  // [rows]
  const float* decays;  // [rows]
  const float* b;       // [rows][bcStride], the first `states` of each
  const float* c;
  size_t bcStride;
  float* x;  // [rows][xStride], the first `channels` of each; becomes y
  size_t xStride;
  const float* skip;  // [channels]
};

// How the activations of a group of rows lie side by side.
enum class Layout {
  eights,  // [columns / 8][rows][8]: what is read while one line of weights is unfolded
  blocks,  // [columns / blockSize][rows][blockSize]: matrices, block by block
};

// A way to multiply rows, group by group.
struct Grouping {
  size_t rows;  // of a group at most
  Layout layout;
  void (*multiplyTiles)(const TileProduct&, size_t rows);
};

struct Routines {
  const char* name;

  // Of runs of up to `fewRows`, all in one group, and of runs of more.
  Grouping few, many;

  // Whether this processor can run them.
  bool (*supported)();

  // Int8 codes of one row, one scale per block: x ~ code * scale, |code| <= 127.
  // `columns` is padded with zeros to whole blocks. Blocks whose greatest |x| is below `leastMagnitude` become zeros.
  // One with a value that is not finite becomes zeros with a scale that is no number, and so do products with it: codes
  // have no room for such a value, and what went wrong must not look like an answer.
  // Every eight codes of a block are `eightsApart` bytes behind those before them, and every block, scale and offset is
  // `groupRows` times its size behind the one before it.
  void (*quantizeRow)(const float* x, size_t columns, size_t blockSize, size_t groupRows, size_t eightsApart,
                      int8_t* codes, float* scales, int32_t* offsets);

  // y = x / sqrt(mean(x^2) + epsilon) * weight
  void (*normalizeRow)(const float* x, const float* weight, size_t columns, float epsilon, float* y);

  // y = silu(gate) * up
  void (*gate)(const float* gate, const float* up, size_t count, float* y);

  // y = scale * x, each pair of neighbours turned by its angle. [width / 2] cosines and sines; null turns nothing.
  void (*rotateHead)(const float* x, const float* cosines, const float* sines, size_t width, float scale, float* y);

  // y = x, rounded to the nearest; beyond the greatest number infinity.
  void (*toHalves)(const float* x, size_t count, Half* y);

  // Goes on from greatest, totals and sums. A query gets the same bits whatever others are beside it.
  void (*attend)(const AttentionStretch&);

  // Joins what two stretches gave: the second into the first. -infinity and 0 stand for a query that saw nothing.
  void (*join)(size_t width, float* greatest, float* total, float* sums, float otherGreatest, float otherTotal,
               const float* otherSums);

  // y = silu(bias + the sum over taps of weights * inputs), channel by channel. `weights` [taps][weightStride];
  // `inputs` are rows, one per tap; `bias` may be null.
  void (*convolve)(const float* const* inputs, const float* weights, size_t weightStride, const float* bias,
                   size_t taps, size_t channels, float* y);

  // A row gets the same bits whether it comes alone or with others, and a channel however many there are.
  void (*scan)(const ScanStretch&);
};

// Best first. Each list ends with null; entries for other processors are absent.
extern const Routines* const allRoutines[];

// The best that this processor supports, or the one that is asked for by name.
// Null if there is none of that name, or the processor lacks what it needs.
const Routines* routinesFor(const char* name);

}  // namespace espalier

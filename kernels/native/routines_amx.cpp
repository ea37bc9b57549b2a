// AVX-512 with Intel's matrix extensions (Xeons since Sapphire Rapids): sixteen rows against sixteen outputs at once,
// for the many rows of a prefill. Few rows wait for memory, which matrices do not make faster.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "routines_zmm.h"

namespace espalier {
namespace {

// Rows of a matrix register, and columns of one that holds bytes.
constexpr size_t tileHeight = 16, registerColumns = 64;

// Columns of weights that are unfolded at a time, of a pair of tiles: with the activations of sixteen rows they fit
// into the nearest cache.
constexpr size_t unfoldedColumns = 512, mostBlocks = unfoldedColumns / 32;

// Blocks that are multiplied before the first of them is scaled: a product is long on its way to memory.
constexpr size_t blocksAhead = 3;

// Registers by what they hold. The last rows of a group, fewer than sixteen, have registers of their own.
enum Register : int { product, activationRows, lastProduct, lastActivationRows, weights };

// What the processor's register of registers takes.
struct alignas(64) Configuration {
  uint8_t palette = 1, startRow = 0, reserved[14] = {};
  uint16_t rowBytes[16] = {};
  uint8_t rows[16] = {};

  void shape(Register which, size_t height, size_t bytes) {
    rows[which] = static_cast<uint8_t>(height);
    rowBytes[which] = static_cast<uint16_t>(bytes);
  }
};

// In words of our own: the compiler's intrinsics do not say what memory they read (GCC 12), so that stores before them
// are taken for dead.
inline void configure(const Configuration& to) { asm volatile("ldtilecfg %0" : : "m"(to)); }
inline void release() { asm volatile("tilerelease"); }

template <Register which>
inline void clear() {
  asm volatile("tilezero %%tmm%c0" : : "i"(which));
}

template <Register which>
inline void load(const int8_t* from, size_t rowsApart) {
  const auto& read = *reinterpret_cast<const int8_t(*)[tileHeight * registerColumns]>(from);
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(rowsApart), "i"(which), "m"(read));
}

template <Register which, typename Integers>
inline void store(Integers& to) {
  asm volatile("tilestored %%tmm%c3, (%1,%2,1)" : "=m"(to) : "r"(&to), "r"(sizeof(int32_t[tileRows])), "i"(which));
}

template <Register to, Register rows>
inline void addProducts() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(to), "i"(rows), "i"(weights));
}

bool supported() {
  constexpr unsigned tilesAndInt8 = 1u << 24 | 1u << 25;
  constexpr long askPermission = 0x1023, tileData = 18;  // ARCH_REQ_XCOMP_PERM: Linux keeps 8 KiB of registers if asked
  unsigned a, b, c, d;
  return supportsAvx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & tilesAndInt8) == tilesAndInt8 &&
         syscall(SYS_arch_prctl, askPermission, tileData) == 0;
}

// Some blocks of a tile of weights, one byte a code.
struct Unfolded {
  alignas(64) int8_t codes[unfoldedColumns * tileRows];  // [blocks][blockSize / 4][16][4], the zero point taken away
  __m512 scales[mostBlocks];
};

// The blocks before `end`, whose codes begin at `codes`; gives where they end.
const uint8_t* unfold(const TileProduct& p, size_t block, size_t end, const uint8_t* codes, Unfolded& to) {
  const __m512i low = _mm512_set1_epi8(15), zeroPoint = _mm512_set1_epi8(8);
  int8_t* out = to.codes;
  for (__m512* scales = to.scales; block < end; block++, scales++) {
    const uint16_t* halves = beginBlock(p, block, &codes);
    prefetchWeights<Maker::other, false>(wantedSoon(p, halves));
    *scales = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
    for (size_t column = 0; column < p.blockSize; column += 8, codes += 64, out += 128) {
      prefetchWeights<Maker::other, false>(wantedSoon(p, codes));
      const __m512i packed = _mm512_loadu_si512(codes);
      const __m512i even = _mm512_and_si512(packed, low);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
      _mm512_store_si512(out, _mm512_sub_epi8(even, zeroPoint));
      _mm512_store_si512(out + 64, _mm512_sub_epi8(odd, zeroPoint));
    }
  }
  return codes;
}

// Up to sixteen rows of activations, block by block: codes [blocks][groupRows][blockSize], scales [blocks][groupRows].
struct Rows {
  const int8_t* codes;
  const float* scales;
  size_t blocks, blockSize, groupRows;
};

// Integers of one block, [16][16].
struct alignas(64) Dots {
  int32_t of[tileHeight * tileRows];
};

// Multiplies a block, and stores the product before it first: right behind its own product a store makes blocks take
// 1.07 to 1.18 times as long (Xeon); it seems that, waiting, it takes the places of what could run meanwhile. Products
// take turns in one register: with all eight in use, a block took twice as long whenever the machine was slow.
template <Register to, Register ofRows>
inline void multiplyBlock(const Unfolded& tile, const Rows& rows, size_t block, Dots* before) {
  const int8_t* codes = tile.codes + block * rows.blockSize * tileRows;
  const int8_t* activations = rows.codes + block * rows.blockSize * rows.groupRows;
  size_t column = 0;
  do {
    load<ofRows>(activations + column, rows.blockSize);
    load<weights>(codes + column * tileRows, 64);
    if (column == 0) {
      if (before) store<to>(*before);
      clear<to>();
    }
    addProducts<to, ofRows>();
    column += registerColumns;
  } while (column < rows.blockSize);
}

// Adds the products of some rows, which stay in registers. Beside matrix products vectors run at less than half their
// pace (Xeon), so that the three instructions a row take longer than the product.
//
// Multiplied as bfloat16 these integers come out as the same floats, and nothing is to be converted; but twice as much is
// loaded, and a block took 1.2 times as long (Xeon).
template <size_t count, Register to, Register ofRows>
void addBlocks(const Unfolded& tile, const Rows& rows, float* added) {
  constexpr size_t places = blocksAhead + 1;
  Dots dots[places];
  __m512 sums[count];
#pragma GCC unroll 16
  for (size_t r = 0; r < count; r++) sums[r] = _mm512_loadu_ps(added + r * tileRows);
  for (size_t next = 0; next < rows.blocks + blocksAhead; next++) {
    Dots* const before = next > 0 ? &dots[(next - 1) % places] : nullptr;
    if (next < rows.blocks) {
      multiplyBlock<to, ofRows>(tile, rows, next, before);
    } else if (next == rows.blocks) {
      store<to>(*before);
    }
    if (next < blocksAhead) continue;
    const size_t block = next - blocksAhead;
    const Dots& scaled = dots[block % places];
    const float* scales = rows.scales + block * rows.groupRows;
#pragma GCC unroll 16
    for (size_t r = 0; r < count; r++) {
      const __m512 scale = _mm512_mul_ps(tile.scales[block], _mm512_set1_ps(scales[r]));
      sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(scaled.of + r * tileRows)), scale, sums[r]);
    }
  }
#pragma GCC unroll 16
  for (size_t r = 0; r < count; r++) _mm512_storeu_ps(added + r * tileRows, sums[r]);
}

using AddBlocks = void (*)(const Unfolded&, const Rows&, float*);

template <size_t... fewer>
AddBlocks addLast(size_t count, std::index_sequence<fewer...>) {
  static constexpr AddBlocks byCount[] = {addBlocks<fewer + 1, lastProduct, lastActivationRows>...};
  return byCount[count - 1];
}

// For blocks of that size, where the last rows of a group are so many.
Configuration configurationFor(size_t blockSize, size_t last) {
  const size_t columns = blockSize < registerColumns ? blockSize : registerColumns;
  Configuration configuration;
  configuration.shape(product, tileHeight, sizeof(int32_t[tileRows]));
  configuration.shape(activationRows, tileHeight, columns);
  configuration.shape(weights, columns / 4, sizeof(int8_t[4 * tileRows]));
  if (last > 0) {
    configuration.shape(lastProduct, last, sizeof(int32_t[tileRows]));
    configuration.shape(lastActivationRows, last, columns);
  }
  return configuration;
}

// Two tiles, which share what activations cost on their way from an outer cache: stretch of columns by stretch, in each
// all rows, sixteen at a time.
void multiplyPair(const TileProduct& p, size_t rows) {
  const size_t last = rows % tileHeight, blocksAtOnce = unfoldedColumns / p.blockSize;
  const AddBlocks addAll = addBlocks<tileHeight, product, activationRows>;
  const AddBlocks addFewer = last > 0 ? addLast(last, std::make_index_sequence<tileHeight - 1>()) : nullptr;
  Unfolded unfolded[pairTiles];
  const uint8_t* codes[pairTiles];
  for (size_t tile = 0; tile < p.tiles; tile++) codes[tile] = p.weights + tile * tileBytes(p);
  for (size_t block = 0; block < p.blocks; block += blocksAtOnce) {
    const size_t end = block + blocksAtOnce < p.blocks ? block + blocksAtOnce : p.blocks;
    for (size_t tile = 0; tile < p.tiles; tile++) {
      codes[tile] = unfold(tileOf(p, tile), block, end, codes[tile], unfolded[tile]);
    }
    for (size_t row = 0; row < rows; row += tileHeight) {
      const Rows some{p.activations + (block * p.groupRows + row) * p.blockSize,
                      p.activationScales + block * p.groupRows + row, end - block, p.blockSize, p.groupRows};
      const AddBlocks add = rows - row < tileHeight ? addFewer : addAll;
      for (size_t tile = 0; tile < p.tiles; tile++) {
        add(unfolded[tile], some, p.sums + (tile * p.groupRows + row) * tileRows);
      }
    }
  }
}

void multiplyMany(const TileProduct& p, size_t rows) {
  configure(configurationFor(p.blockSize, rows % tileHeight));
  for (size_t tile = 0; tile < p.tiles; tile += pairTiles) {
    TileProduct pair = tileOf(p, tile);
    pair.tiles = p.tiles - tile < pairTiles ? p.tiles - tile : pairTiles;
    multiplyPair(pair, rows);
  }
  release();  // the system keeps nothing of them then where it changes threads
}

}  // namespace

extern const Routines amxRoutines;
const Routines amxRoutines = {
    "amx",
    {fewRows, Layout::eights, multiplyFew<Maker::other>},
    {maxRows, Layout::blocks, multiplyMany},
    supported,
    quantizeRow,
    normalizeRowGeneric,
    gateGeneric,
    rotateHeadGeneric,
    toHalvesWith<Simd>,
    attendWith<Simd>,
    joinGeneric,
    convolveGeneric,
    scanWith<Simd>,
};

}  // namespace espalier

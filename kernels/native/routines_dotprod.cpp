// arm64 with the dot product instructions (Armv8.2 and later; all Jetsons since Xavier).
#include <sys/auxv.h>

#include "routines_neon.h"

namespace espalier {
namespace {

bool supported() {
  constexpr unsigned long dotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & dotProduct) != 0;
}

void multiplyTile(const TileProduct& p, size_t rows) {
  static constexpr void (*byRows[])(const TileProduct&) = {
      nullptr, multiplyByDots<1>, multiplyByDots<2>, multiplyByDots<3>, multiplyByDots<4>,
  };
  for (size_t done = 0; done < rows; done += 4) byRows[rows - done < 4 ? rows - done : 4](skipRows(p, done));
}

}  // namespace

extern const Routines dotprodRoutines;
const Routines dotprodRoutines = {
    "dotprod",
    {fewRows, Layout::eights, multiplyOneByOne<multiplyTile>},
    {fewRows, Layout::eights, multiplyOneByOne<multiplyTile>},
    supported,
    quantizeRowGeneric,
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

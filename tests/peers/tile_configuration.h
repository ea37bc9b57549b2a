// Put before every C++ file of llama.cpp. GCC 12.2 believes that `_tile_loadconfig` reads eight bytes of a configuration of
// 64 and leaves out the stores to the others: on processors with AMX llama.cpp then dies of an illegal instruction.
#if defined(__AMX_TILE__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(configuration) \
  __asm__ volatile("ldtilecfg %0" : : "m"(*reinterpret_cast<const char(*)[64]>(configuration)))
#endif

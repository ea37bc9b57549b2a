#include "routines.h"

#include <cstring>

namespace espalier {

extern const Routines portableRoutines;
#if defined(__x86_64__)
extern const Routines avx2Routines;
extern const Routines avxvnniRoutines;
extern const Routines avx512Routines;
extern const Routines amxRoutines;
const Routines* const allRoutines[] = {
#if !defined(WITHOUT_AMX)
    &amxRoutines,
#endif
    &avx512Routines,
#if !defined(WITHOUT_AVXVNNI)
    &avxvnniRoutines,
#endif
    &avx2Routines,    &portableRoutines, nullptr,
};
#elif defined(__aarch64__)
extern const Routines i8mmRoutines;
extern const Routines dotprodRoutines;
const Routines* const allRoutines[] = {&i8mmRoutines, &dotprodRoutines, &portableRoutines, nullptr};
#else
const Routines* const allRoutines[] = {&portableRoutines, nullptr};
#endif

const Routines* routinesFor(const char* name) {
  for (const Routines* const* routines = allRoutines; *routines; routines++) {
    if ((!name || std::strcmp((*routines)->name, name) == 0) && (*routines)->supported()) return *routines;
  }
  return nullptr;
}

}  // namespace espalier

// Teams that are made for fewer loops than the code has.
#pragma once

#include "tasks.h"

namespace espalier {
namespace {

void checkTeam() {
  constexpr size_t total = 50, threads = 3;
  for (const size_t loops : {0, 2, 3, 4}) {
    std::snprintf(currentCase, sizeof(currentCase), "a team for %zu loops", loops);
    size_t counts[3] = {};
    const bool more = runTeam(threads, loops, [&](const Parallel& parallel) {
      for (size_t& count : counts) {
        parallel.forEach(total, [&](size_t) { __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); });
      }
    });
    check(more == (loops < 3), "more: %d", more);
    for (size_t loop = 0; loop < 3; loop++) {
      check(counts[loop] == (loop < loops ? total : 0), "loop %zu has run %zu times", loop, counts[loop]);
    }
  }
}

}  // namespace
}  // namespace espalier

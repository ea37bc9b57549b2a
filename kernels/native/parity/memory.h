// The memory of the weights.
#pragma once

#include "../memory.h"
#include "checks.h"

namespace espalier {
namespace {

size_t mappedPages() {
  size_t pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%zu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return pages;
}

void checkMemory(Random& random) {
  std::snprintf(currentCase, sizeof(currentCase), "weights' memory");
  std::vector<uint8_t*> taken;
  std::vector<size_t> sizes;
  size_t before = 0;
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < 40; i++) {
      const size_t bytes = random.chance(10) ? random.between(1, size_t{1} << 27) : random.between(1, size_t{1} << 20);
      auto* address = static_cast<uint8_t*>(allocateWeights(bytes));
      check(address && reinterpret_cast<uintptr_t>(address) % 64 == 0 && address[0] == 0 && address[bytes - 1] == 0,
            "%zu bytes are not there, aligned and zero", bytes);
      if (!address) continue;
      address[0] = address[bytes - 1] = static_cast<uint8_t>(i + 1);
      taken.push_back(address);
      sizes.push_back(bytes);
    }
    bool whole = true;
    for (size_t i = 0; i < taken.size(); i++) {
      whole = whole && taken[i][0] == i + 1 && taken[i][sizes[i] - 1] == i + 1;
    }
    check(whole, "two allocations overlap");
    while (!taken.empty()) {
      std::swap(taken[random.below(taken.size())], taken.back());
      freeWeights(taken.back());
      taken.pop_back();
    }
    sizes.clear();
    if (round == 0) before = mappedPages();  // what this program keeps for itself is there by now
  }
  // One slab is 16384 pages.
  check(mappedPages() < before + 8192, "%zu pages are mapped after all was freed, %zu before", mappedPages(), before);
}

}  // namespace
}  // namespace espalier

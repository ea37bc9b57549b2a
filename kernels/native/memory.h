// Large memory on huge pages: packed weights are read from end to end for every token, and with pages of 4 KiB the
// translation of addresses costs a third of the bandwidth.
#pragma once

#include <cstddef>

namespace espalier {

// Zeroed memory, aligned to 64 bytes; null if there is none. Safe to call from several threads.
void* allocateWeights(size_t bytes);

// Gives memory of `allocateWeights` back.
void freeWeights(void* address);

// Lets go of the resident pages that lie wholly in a private, unwritten mapping of a file. They come back when read.
void dropMappedPages(const void* address, size_t bytes);

}  // namespace espalier

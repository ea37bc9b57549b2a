#include "memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#include "rounding.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes)
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes)
#endif

namespace espalier {
namespace {

constexpr size_t hugePage = size_t{1} << 21;

// Matrices share slabs, so that each does not round up to huge pages of its own.
struct Slab {
  Slab* next;
  void* mapping;
  size_t mappedBytes;
  uint8_t* start;
  size_t bytes;
  size_t used;
  size_t living;  // allocations not yet freed
};

constexpr size_t slabBytes = size_t{1} << 26;

// A sanitizer sees slabs only, not what is allocated in them: it is told. Between two allocations lies a band then.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t band = 64;
#else
constexpr size_t band = 0;
#endif

// Plain data: valid until the process ends, whatever order libraries are unloaded in.
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
Slab* slabs = nullptr;

Slab* addSlab(size_t bytes) {
  const size_t mappedBytes = bytes + hugePage;
  void* mapping =
      mmap(nullptr, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  uint8_t* start = reinterpret_cast<uint8_t*>(roundUp(reinterpret_cast<uintptr_t>(mapping), hugePage));
  madvise(start, bytes, MADV_HUGEPAGE);  // a wish: without it, only speed is lost
  Slab* slab = new (std::nothrow) Slab{slabs, mapping, mappedBytes, start, bytes, 0, 0};
  if (!slab) {
    munmap(mapping, mappedBytes);
    return nullptr;
  }
  ASAN_POISON_MEMORY_REGION(start, bytes);
  slabs = slab;
  return slab;
}

}  // namespace

void* allocateWeights(size_t wanted) {
  const size_t bytes = roundUp(wanted, alignment) + band;
  pthread_mutex_lock(&mutex);
  Slab* slab = slabs;
  while (slab && slab->bytes - slab->used < bytes) slab = slab->next;
  if (!slab) slab = addSlab(roundUp(bytes > slabBytes ? bytes : slabBytes, hugePage));
  void* address = nullptr;
  if (slab) {
    address = slab->start + slab->used;
    ASAN_UNPOISON_MEMORY_REGION(address, wanted);
    slab->used += bytes;
    slab->living++;
  }
  pthread_mutex_unlock(&mutex);
  return address;
}

void freeWeights(void* address) {
  if (!address) return;
  pthread_mutex_lock(&mutex);
  for (Slab** link = &slabs; *link; link = &(*link)->next) {
    Slab* slab = *link;
    if (address < slab->start || address >= slab->start + slab->bytes) continue;
    if (--slab->living == 0) {
      *link = slab->next;
      ASAN_UNPOISON_MEMORY_REGION(slab->start, slab->bytes);
      munmap(slab->mapping, slab->mappedBytes);
      delete slab;
    }
    break;
  }
  pthread_mutex_unlock(&mutex);
}

void dropMappedPages(const void* address, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t start = roundUp(reinterpret_cast<uintptr_t>(address), page);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(address) + bytes) / page * page;
  if (end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
}

}  // namespace espalier

// What compute capability 9.0 adds: clusters of blocks, barriers in shared memory that copies signal, copies by an
// engine of their own, products of a whole warpgroup that run by themselves. Each has a plain twin for the emulation.
#pragma once

#include "device.cuh"

namespace espalier {

// Where something lies in the block's shared memory. The same place of another block of the cluster has the same one.
__device__ __forceinline__ uint32_t sharedAddress(const void* shared) {
#ifdef ESPALIER_EMULATION
  return static_cast<uint32_t>(static_cast<const unsigned char*>(shared) - emulation::machine.shared);
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
#endif
}

// ---- clusters

// This block's place in its cluster.
__device__ __forceinline__ unsigned placeInCluster() {
#ifdef ESPALIER_EMULATION
  return emulation::ownBlock();
#else
  unsigned place;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(place));
  return place;
#endif
}

// Waits for all threads of the cluster; what they wrote can be seen.
__device__ __forceinline__ void syncCluster() {
#ifdef ESPALIER_EMULATION
  emulation::clusterBarrier();
#else
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// ---- barriers of 8 bytes in shared memory

// A phase ends when so many have arrived and all bytes that are expected have come.
__device__ __forceinline__ void initBarrier(uint32_t barrier, unsigned arrivals) {
#ifdef ESPALIER_EMULATION
  emulation::transactionBarrier(emulation::ownBlock(), barrier) = {0, 0, static_cast<uint8_t>(arrivals),
                                                                   static_cast<uint8_t>(arrivals), 0};
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#endif
}

// Barriers that were made can be seen by the copy engine, and by the cluster after its next barrier.
__device__ __forceinline__ void publishBarriers() {
#ifndef ESPALIER_EMULATION
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Arrives, and expects so many bytes more in this phase.
__device__ __forceinline__ void arriveExpecting(uint32_t barrier, unsigned bytes) {
#ifdef ESPALIER_EMULATION
  emulation::arrive(emulation::ownBlock(), barrier, 1, static_cast<int>(bytes));
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}

// Arrives at a barrier of another block of the cluster, or of this one: what this thread read may be overwritten. What
// it wrote would need a fence.
__device__ __forceinline__ void arriveAt(uint32_t barrier, unsigned block) {
#ifdef ESPALIER_EMULATION
  emulation::arrive(block, barrier, 1, 0);
#else
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(barrier),
      "r"(block)
      : "memory");
#endif
}

// Waits for the end of the phase of this parity; the one before the first has parity 1.
__device__ __forceinline__ void waitForPhase(uint32_t barrier, unsigned parity) {
#ifdef ESPALIER_EMULATION
  while (emulation::transactionBarrier(emulation::ownBlock(), barrier).phase == parity) emulation::spin();
  emulation::machine.spins = 0;
#else
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni over;\n"
      "bra.uni again;\n"
      "over:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

// ---- the copy engine

// What other kernels wrote before `waitForPrevious` can be seen by the copy engine.
__device__ __forceinline__ void publishToCopies() {
#ifndef ESPALIER_EMULATION
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

// Starts a copy from global to shared memory that the barrier expects. All are multiples of 16 bytes.
__device__ __forceinline__ void copyBulk(uint32_t to, const void* from, unsigned bytes, uint32_t barrier) {
#ifdef ESPALIER_EMULATION
  emulation::copyBulk(emulation::ownBlock(), to, from, bytes, barrier);
#else
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
#endif
}

// The same to this place of both blocks of a cluster of two; each one's barrier expects it.
__device__ __forceinline__ void copyBulkToBoth(uint32_t to, const void* from, unsigned bytes, uint32_t barrier) {
#ifdef ESPALIER_EMULATION
  for (unsigned block = 0; block < 2; block++) emulation::copyBulk(block, to, from, bytes, barrier);
#else
  constexpr uint16_t both = 3;
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "h"(both)
      : "memory");
#endif
}

// ---- products of a warpgroup

// A matrix of halves in shared memory as products read it: rows of 64 columns, 128 bytes, eight rows after another in
// 1024 bytes, in which the 16 bytes at place i of row r lie at i ^ r. Aligned to 1024 bytes; 16 columns are 32 bytes
// on.
struct Matrix {
  uint32_t low;  // of its descriptor

  __device__ __forceinline__ explicit Matrix(uint32_t shared) : low(uint32_t{1} << 16 | (shared & 0x3ffff) >> 4) {}
  // What lies so many bytes on.
  __device__ __forceinline__ uint64_t at(uint32_t bytes) const {
    constexpr uint32_t swizzle128 = uint32_t{1} << 30, eightRows = 1024 >> 4;
    return static_cast<uint64_t>(swizzle128 | eightRows) << 32 | (low + (bytes >> 4));
  }
};

// Registers that were written can be read by the products that follow.
__device__ __forceinline__ void orderRegisters() {
#ifndef ESPALIER_EMULATION
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Closes a group of products.
__device__ __forceinline__ void commitProducts() {
#ifdef ESPALIER_EMULATION
  emulation::commitProducts();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until at most so many groups are under way.
template <int pending>
__device__ __forceinline__ void waitForProducts() {
#ifdef ESPALIER_EMULATION
  emulation::waitForProducts(pending);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}

// Keeps the compiler from moving what touches these registers across this place.
template <int count>
__device__ __forceinline__ void holdRegisters(uint32_t (&registers)[count]) {
#ifndef ESPALIER_EMULATION
#pragma unroll
  for (int i = 0; i < count; i++) asm volatile("" : "+r"(registers[i])::"memory");
#endif
}
template <int count>
__device__ __forceinline__ void holdRegisters(float (&registers)[count][4]) {
#ifndef ESPALIER_EMULATION
#pragma unroll
  for (int i = 0; i < count; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) asm volatile("" : "+f"(registers[i][j])::"memory");
  }
#endif
}

// d += a b by all lanes of a warpgroup: a is 64 by 16 in halves, 16 rows from each warp as
// for `mma16816`; b is 16 by 8 eights, its columns the rows of a `Matrix`; d is 64 by 8 eights, of which a warp has
// its 16 rows, every 8 columns as `mma16816` has them. It reads `a` until it is waited for.
template <int eights>
__device__ __forceinline__ void multiplyWarpgroup(float (&d)[eights][4], const uint32_t (&a)[4], uint64_t b) {
#ifdef ESPALIER_EMULATION
  emulation::startProduct(&d[0][0], a, b, eights);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ESPALIER_FOUR(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define ESPALIER_EIGHT_FOURS(i)                                                                             \
  ESPALIER_FOUR(i), ESPALIER_FOUR(i + 1), ESPALIER_FOUR(i + 2), ESPALIER_FOUR(i + 3), ESPALIER_FOUR(i + 4), \
      ESPALIER_FOUR(i + 5), ESPALIER_FOUR(i + 6), ESPALIER_FOUR(i + 7)
  static_assert(eights == 8 || eights == 16 || eights == 32);
  if constexpr (eights == 8) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, "
        "1, 1, 1, 0;"
        : ESPALIER_EIGHT_FOURS(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else if constexpr (eights == 16) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, "
        "1, 1, 1, 0;"
        : ESPALIER_EIGHT_FOURS(0), ESPALIER_EIGHT_FOURS(8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
        "%13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, {%128, %129, "
        "%130, %131}, %132, 1, 1, 1, 0;"
        : ESPALIER_EIGHT_FOURS(0), ESPALIER_EIGHT_FOURS(8), ESPALIER_EIGHT_FOURS(16), ESPALIER_EIGHT_FOURS(24)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
#undef ESPALIER_EIGHT_FOURS
#undef ESPALIER_FOUR
#endif
}

}  // namespace espalier

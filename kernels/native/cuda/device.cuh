// What the kernels share: instructions that CUDA's C++ has no name for, each with a plain twin for the emulation of
// parity/emulation.h, and sums over a warp.
#pragma once

#include <cstdint>

#ifndef ESPALIER_EMULATION
#include <cuda_fp16.h>
#endif

namespace espalier {

constexpr unsigned allLanes = 0xffffffffu;

// The launch's dynamic shared memory, aligned to 128 bytes.
template <typename T>
__device__ __forceinline__ T* dynamicShared() {
#ifdef ESPALIER_EMULATION
  return reinterpret_cast<T*>(emulation::machine.shared);
#else
  extern __shared__ __align__(128) unsigned char dynamicSharedMemory[];
  return reinterpret_cast<T*>(dynamicSharedMemory);
#endif
}

__device__ __forceinline__ float warpSum(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(allLanes, value, lanes);
  return value;
}

__device__ __forceinline__ float warpMax(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(allLanes, value, lanes));
  return value;
}

// Two halves as the register that holds them, and back.
__device__ __forceinline__ uint32_t bitsOf(__half2 pair) {
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}
__device__ __forceinline__ __half2 halvesOf(uint32_t bits) {
  __half2 pair;
  memcpy(&pair, &bits, sizeof(pair));
  return pair;
}
// a in the low half, b in the high one.
__device__ __forceinline__ uint32_t packHalves(float a, float b) { return bitsOf(__floats2half2_rn(a, b)); }

// bits & mask | with: one instruction, which the compiler does not find where both are constants.
__device__ __forceinline__ uint32_t maskOr(uint32_t bits, uint32_t mask, uint32_t with) {
#ifdef ESPALIER_EMULATION
  return (bits & mask) | with;
#else
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(bits), "r"(mask), "r"(with));
  return result;
#endif
}

// The value, as if it were not known from before: what is made of it is made again, not kept in registers.
__device__ __forceinline__ int afresh(int value) {
#ifndef ESPALIER_EMULATION
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// Waits until the launch before this one on the stream is done and its writes can be seen (it may have let us start
// early). Nothing that it writes may be read before.
__device__ __forceinline__ void waitForPrevious() {
#if !defined(ESPALIER_EMULATION) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next launch on the stream start as soon as every block has come here or ended.
__device__ __forceinline__ void letNextStart() {
#if !defined(ESPALIER_EMULATION) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// 16 bytes that are read once and that no kernel in flight writes: past the first cache, through the read-only path.
__device__ __forceinline__ uint4 loadStreaming(const void* address) {
#ifdef ESPALIER_EMULATION
  emulation::requireAligned(address, 16);
  return *static_cast<const uint4*>(address);
#else
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
#endif
}

// Starts a copy of 16 bytes from global to shared memory; of the last `16 - bytes` come zeros.
__device__ __forceinline__ void cpAsync16(void* shared, const void* global, unsigned bytes = 16) {
#ifdef ESPALIER_EMULATION
  emulation::requireAligned(shared, 16);
  emulation::requireAligned(global, 16);
  memset(shared, 0, 16);
  memcpy(shared, global, bytes);
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
#endif
}

// Closes a group of copies.
__device__ __forceinline__ void cpAsyncCommit() {
#ifndef ESPALIER_EMULATION
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `pending` groups of this thread are under way.
template <int pending>
__device__ __forceinline__ void cpAsyncWait() {
#ifndef ESPALIER_EMULATION
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// d += a b, all lanes of a warp together: a is 16 by 16 in halves, b is 16 by 8, d is 16 by 8 in floats. With g = lane
// / 4 and t = lane % 4 a lane holds of a the pairs (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), of b the pairs
// down column g from rows 2t and 2t + 8, of d (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
__device__ __forceinline__ void mma16816(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef ESPALIER_EMULATION
  struct Fragment {
    float a[4][2], b[2][2];
  } own;
  for (int i = 0; i < 4; i++) {
    const float2 pair = __half22float2(halvesOf(a[i]));
    own.a[i][0] = pair.x;
    own.a[i][1] = pair.y;
  }
  for (int i = 0; i < 2; i++) {
    const float2 pair = __half22float2(halvesOf(b[i]));
    own.b[i][0] = pair.x;
    own.b[i][1] = pair.y;
  }
  const unsigned half = emulation::exchange(allLanes, own), g = emulation::ownLane() / 4, t = emulation::ownLane() % 4;
  const auto& all = reinterpret_cast<const unsigned char(&)[32][64]>(emulation::ownWarp().values[half]);
  const auto of = [&](unsigned lane) -> const Fragment& { return *reinterpret_cast<const Fragment*>(all[lane]); };
  for (unsigned i = 0; i < 4; i++) {
    const unsigned column = 2 * t + i % 2;
    double sum = static_cast<double>(d[i]);
    for (unsigned quad = 0; quad < 4; quad++) {
      const Fragment &left = of(4 * g + quad), &right = of(4 * column + quad);
      for (unsigned upper = 0; upper < 2; upper++) {
        for (unsigned odd = 0; odd < 2; odd++) {
          sum += static_cast<double>(left.a[i / 2 + 2 * upper][odd]) * static_cast<double>(right.b[upper][odd]);
        }
      }
    }
    d[i] = static_cast<float>(sum);
  }
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 by 8 matrices of halves from shared memory: lane i names row i % 8 of matrix i / 8 (16 bytes, aligned). A lane
// gets of each matrix the pair (lane / 4, 2 (lane % 4)); with `transposed` of its transpose.
template <bool transposed = false>
__device__ __forceinline__ void loadMatrices(uint32_t matrices[4], const void* row) {
#ifdef ESPALIER_EMULATION
  emulation::requireAligned(row, 16);
  const auto* own = static_cast<const uint16_t*>(row);
  const unsigned half = emulation::exchange(allLanes, own), lane = emulation::ownLane(), g = lane / 4, t = lane % 4;
  for (unsigned i = 0; i < 4; i++) {
    const auto at = [&](unsigned r, unsigned c) { return emulation::shown<const uint16_t*>(half, 8 * i + r)[c]; };
    const uint32_t low = transposed ? at(2 * t, g) : at(g, 2 * t),
                   high = transposed ? at(2 * t + 1, g) : at(g, 2 * t + 1);
    matrices[i] = low | high << 16;
  }
  __syncwarp();  // nobody goes on to write what others still read
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

}  // namespace espalier

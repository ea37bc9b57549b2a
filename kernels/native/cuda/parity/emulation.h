// Device code without a device: force-included where g++ compiles a `.cu` (`-x c++ -std=c++17 -Wno-unknown-pragmas
// -include emulation.h`), it gives the part of CUDA's C++ that our kernels use. Blocks run one after another; every
// thread of a block is a fibre with a stack of its own, and barriers, shuffles and other collective functions switch to
// the next one. So a race that a real device might lose is not found here, but every index, every barrier and every sum
// is. The blocks of a cluster run side by side. What runs by itself on a device, products of a warpgroup, runs here as
// late as it may: registers that change before it is waited for are found.
//
// Dynamic shared memory is asked for with `dynamicShared<T>()` (device.cuh). It starts as NaNs, and writes beyond what
// the launch asked for are found. A barrier that not all threads reach ends the program with a message.
#pragma once

#undef _FORTIFY_SOURCE  // its longjmp refuses to change stacks

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define ESPALIER_EMULATION 1

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(bytes) alignas(bytes)

// ---- vectors

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- fibres

namespace espalier {
namespace emulation {

constexpr unsigned warpSize = 32;
constexpr unsigned maxThreads = 1024;
constexpr size_t stackBytes = size_t{128} << 10;
constexpr size_t guardBytes = 1024;
constexpr size_t maxSharedBytes = size_t{227} << 10;
constexpr unsigned maxBlocks = 2;  // of a cluster
constexpr unsigned mostSpins = 1u << 26;

[[noreturn]] inline void fail(const char* what);

struct Warp {
  uint32_t alive, arrived, expected;
  unsigned phase;
  alignas(16) unsigned char values[2][warpSize][64];  // what lanes show each other, in turns
};

// A barrier that bytes arrive at, as it lies in shared memory.
struct TransactionBarrier {
  int32_t bytes;  // that are missing; fewer than none where they come before they are expected
  uint8_t phase, missing, arrivals, unused;
};
static_assert(sizeof(TransactionBarrier) == 8);

// A product of a warpgroup that was started.
struct StartedProduct {
  float* d;
  const uint32_t* a;
  uint64_t b;
  int eights;
};

struct Products {
  std::vector<StartedProduct> started;
  std::vector<size_t> groups;  // products that each holds, in order; the rest of those started are in none
};

struct Machine {
  jmp_buf scheduler;
  jmp_buf fibres[maxThreads];
  ucontext_t contexts[maxThreads];
  ucontext_t home;
  unsigned started = 0;  // fibres that exist
  unsigned current = 0;
  unsigned threads = 0, alive = 0;  // of the cluster
  unsigned blockThreads = 0, blocks = 1;
  unsigned aliveOf[maxBlocks] = {}, arrived[maxBlocks] = {};
  dim3 firstBlock;  // of the cluster
  unsigned clusterArrived = 0;
  bool waitingForCluster[maxThreads] = {};
  unsigned spins = 0;  // since some thread went on
  Products products[maxThreads];
  bool waiting[maxThreads] = {};  // at the block's barrier
  unsigned queue[maxThreads] = {}, head = 0, queued = 0;
  Warp warps[maxThreads / warpSize];
  void (*kernel)(const void*) = nullptr;
  const void* parameters = nullptr;
  const char* name = "";
  std::unique_ptr<unsigned char[]> memory{new unsigned char[maxBlocks * (maxSharedBytes + guardBytes + 128)]};
  unsigned char* sharedOf[maxBlocks] = {};
  unsigned char* shared = nullptr;  // of the block whose thread runs
};

inline Machine machine;

}  // namespace emulation
}  // namespace espalier

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace espalier {
namespace emulation {

inline void fail(const char* what) {
  fprintf(stderr, "%s, block (%u, %u, %u), thread %u: %s\n", machine.name, blockIdx.x, blockIdx.y, blockIdx.z,
          machine.current, what);
  exit(3);
}

inline void enqueue(unsigned thread) { machine.queue[(machine.head + machine.queued++) % maxThreads] = thread; }

inline unsigned ownBlock() { return machine.current / machine.blockThreads; }

// Makes a thread the one that runs.
inline void become(unsigned thread) {
  machine.current = thread;
  const unsigned block = thread / machine.blockThreads, place = thread % machine.blockThreads;
  threadIdx = {place % blockDim.x, place / blockDim.x % blockDim.y, place / (blockDim.x * blockDim.y)};
  blockIdx = {machine.firstBlock.x + block, machine.firstBlock.y, machine.firstBlock.z};
  machine.shared = machine.sharedOf[block];
}

// Goes on with the next fibre that can run. Returns when this one is called again.
inline void switchAway() {
  if (machine.queued == 0) fail("all threads wait for others");
  const unsigned next = machine.queue[machine.head];
  machine.head = (machine.head + 1) % maxThreads;
  machine.queued--;
  const unsigned self = machine.current;
  if (next == self) return;
  if (_setjmp(machine.fibres[self]) != 0) return;
  become(next);
  _longjmp(machine.fibres[next], 1);
}

inline void releaseBlock() {
  const unsigned block = ownBlock();
  if (machine.arrived[block] == 0 || machine.arrived[block] < machine.aliveOf[block]) return;
  machine.arrived[block] = 0;
  for (unsigned i = block * machine.blockThreads; i < (block + 1) * machine.blockThreads; i++) {
    if (machine.waiting[i]) enqueue(i);
    machine.waiting[i] = false;
  }
}

inline void blockBarrier() {
  machine.arrived[ownBlock()]++;
  machine.waiting[machine.current] = true;
  releaseBlock();
  switchAway();
}

inline void releaseCluster() {
  if (machine.clusterArrived == 0 || machine.clusterArrived < machine.alive) return;
  machine.clusterArrived = 0;
  for (unsigned i = 0; i < machine.threads; i++) {
    if (machine.waitingForCluster[i]) enqueue(i);
    machine.waitingForCluster[i] = false;
  }
}

inline void clusterBarrier() {
  machine.clusterArrived++;
  machine.waitingForCluster[machine.current] = true;
  releaseCluster();
  switchAway();
}

// Lets the others run, and comes back.
inline void spin() {
  if (++machine.spins > mostSpins) fail("all threads wait for barriers that nobody completes");
  enqueue(machine.current);
  switchAway();
}

inline TransactionBarrier& transactionBarrier(unsigned block, uint32_t address) {
  if (address % 8 != 0) fail("a barrier is not aligned");
  return *reinterpret_cast<TransactionBarrier*>(machine.sharedOf[block] + address);
}

// So many arrivals, and so many bytes more that are missing.
inline void arrive(unsigned block, uint32_t address, unsigned arrivals, int bytes) {
  TransactionBarrier& barrier = transactionBarrier(block, address);
  if (barrier.missing < arrivals) fail("more threads arrive at a barrier than it expects");
  barrier.missing = static_cast<uint8_t>(barrier.missing - arrivals);
  barrier.bytes += bytes;
  if (barrier.missing != 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1;
  barrier.missing = barrier.arrivals;
}

inline void copyBulk(unsigned block, uint32_t to, const void* from, unsigned bytes, uint32_t barrier) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0) fail("a copy is not aligned");
  memcpy(machine.sharedOf[block] + to, from, bytes);
  arrive(block, barrier, 0, -static_cast<int>(bytes));
}

inline Warp& ownWarp() { return machine.warps[machine.current / warpSize]; }
inline unsigned ownLane() { return machine.current % warpSize; }

// Shows a value to the lanes of `mask` and waits for theirs. The half of `values` that holds them.
template <typename T>
inline unsigned exchange(uint32_t mask, const T& value) {
  static_assert(sizeof(T) <= sizeof(Warp::values[0][0]));
  Warp& warp = ownWarp();
  const uint32_t bit = uint32_t{1} << ownLane();
  if (!(mask & bit)) fail("a lane calls a collective function whose mask leaves it out");
  if (mask == ~uint32_t{0} && machine.threads % warpSize != 0 &&
      machine.current / warpSize == machine.threads / warpSize)
    mask = (uint32_t{1} << machine.threads % warpSize) - 1;
  if (mask & ~warp.alive) fail("a collective function waits for a lane that has left");
  if (warp.arrived != 0 && warp.expected != mask) fail("lanes of a warp call collective functions with unlike masks");
  const unsigned phase = warp.phase;
  memcpy(warp.values[phase & 1][ownLane()], &value, sizeof(T));
  warp.expected = mask;
  warp.arrived |= bit;
  if (warp.arrived == mask) {
    warp.arrived = 0;
    warp.phase++;
    const unsigned first = machine.current / warpSize * warpSize;
    for (unsigned lane = 0; lane < warpSize; lane++) {
      if (mask >> lane & 1 && lane != ownLane()) enqueue(first + lane);
    }
  } else {
    switchAway();
    if (warp.phase == phase) fail("a fibre woke too early");
  }
  return phase & 1;
}

template <typename T>
inline T shown(unsigned half, unsigned lane) {
  T value;
  memcpy(&value, ownWarp().values[half][lane], sizeof(T));
  return value;
}

inline void leave() {
  Warp& warp = ownWarp();
  warp.alive &= ~(uint32_t{1} << ownLane());
  if (warp.arrived != 0 && warp.expected >> ownLane() & 1) fail("a lane leaves while others wait for it");
  if (!machine.products[machine.current].started.empty()) fail("a thread leaves products that it did not wait for");
  machine.alive--;
  machine.aliveOf[ownBlock()]--;
  releaseBlock();
  releaseCluster();
  if (machine.alive > 0) return switchAway();  // comes back in the next block
  if (_setjmp(machine.fibres[machine.current]) == 0) _longjmp(machine.scheduler, 1);
}

inline void fibre() {
  for (;;) {
    machine.kernel(machine.parameters);
    leave();
  }
}

// Runs the blocks of a cluster.
inline void runCluster() {
  machine.blockThreads = blockDim.x * blockDim.y * blockDim.z;
  machine.threads = machine.alive = machine.blockThreads * machine.blocks;
  machine.clusterArrived = machine.head = machine.queued = machine.spins = 0;
  for (unsigned block = 0; block < machine.blocks; block++) {
    machine.aliveOf[block] = machine.blockThreads;
    machine.arrived[block] = 0;
  }
  for (unsigned w = 0; w * warpSize < machine.threads; w++) {
    Warp& warp = machine.warps[w];
    const unsigned lanes = machine.threads - w * warpSize;
    warp.alive = lanes >= warpSize ? ~uint32_t{0} : (uint32_t{1} << lanes) - 1;
    warp.arrived = 0;
    warp.phase = 0;
  }
  for (unsigned i = 1; i < machine.threads; i++) enqueue(i);
  become(0);
  if (_setjmp(machine.scheduler) == 0) _longjmp(machine.fibres[0], 1);
}

// Where a new fibre waits for its first block.
inline void beginFibre() {
  const unsigned self = machine.started;
  if (_setjmp(machine.fibres[self]) == 0) swapcontext(&machine.contexts[self], &machine.home);
  fibre();
}

inline void makeFibres(unsigned count) {
  for (; machine.started < count; machine.started++) {
    ucontext_t& context = machine.contexts[machine.started];
    getcontext(&context);
    void* stack = mmap(nullptr, stackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) fail("no memory for a fibre");
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = stackBytes;
    context.uc_link = nullptr;
    makecontext(&context, beginFibre, 0);
    swapcontext(&machine.home, &context);
  }
}

// Runs a kernel over a grid, in clusters of so many blocks side by side. `kernel` calls it with its parameters, which
// lie at `parameters`.
inline void launch(const char* name, void (*kernel)(const void*), dim3 grid, dim3 block, size_t sharedBytes,
                   const void* parameters, unsigned clusterBlocks = 1) {
  machine.name = name;
  machine.kernel = kernel;
  machine.parameters = parameters;
  machine.blocks = clusterBlocks;
  gridDim = grid;
  blockDim = block;
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads * clusterBlocks > maxThreads) fail("a block has 1 to 1024 threads, here a cluster");
  if (clusterBlocks > maxBlocks || (clusterBlocks > 1 && threads % warpSize != 0)) fail("there is no such cluster");
  if (sharedBytes > maxSharedBytes) fail("a block has at most 227 KiB of shared memory");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) fail("there is no such grid");
  if (grid.x % clusterBlocks != 0) fail("a grid is whole clusters");
  for (unsigned i = 0; i < clusterBlocks; i++) {
    unsigned char* const shared = machine.memory.get() + i * (maxSharedBytes + guardBytes + 128);
    machine.sharedOf[i] = shared + (128 - reinterpret_cast<uintptr_t>(shared) % 128) % 128;
  }
  makeFibres(threads * clusterBlocks);
  for (unsigned z = 0; z < grid.z; z++) {
    for (unsigned y = 0; y < grid.y; y++) {
      for (unsigned x = 0; x < grid.x; x += clusterBlocks) {
        machine.firstBlock = {x, y, z};
        for (unsigned i = 0; i < clusterBlocks; i++) memset(machine.sharedOf[i], 0xff, sharedBytes + guardBytes);
        runCluster();
        for (unsigned i = 0; i < clusterBlocks * guardBytes; i++) {
          if (machine.sharedOf[i / guardBytes][sharedBytes + i % guardBytes] != 0xff) {
            fail("writes beyond its shared memory");
          }
        }
      }
    }
  }
}

inline void requireAligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) fail("an address is not aligned");
}

}  // namespace emulation
}  // namespace espalier

inline void __syncthreads() { espalier::emulation::blockBarrier(); }
inline void __syncwarp(unsigned mask = ~0u) { espalier::emulation::exchange(mask, char{0}); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline int __syncthreads_or(int predicate) {
  static int any[2];
  static unsigned turn;
  int& mine = any[turn & 1];
  mine = mine || predicate;
  __syncthreads();
  const int result = mine;
  __syncthreads();
  if (&mine == &any[turn & 1]) {  // the first one behind the barrier
    turn++;
    any[turn & 1] = 0;
  }
  return result;
}

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  using namespace espalier::emulation;
  const unsigned half = exchange(mask, value), lane = ownLane();
  const unsigned from = lane / width * width + static_cast<unsigned>(source) % width;
  if (!(mask >> from & 1)) fail("a shuffle reads a lane that is not in its mask");
  return shown<T>(half, from);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  using namespace espalier::emulation;
  const unsigned half = exchange(mask, value), lane = ownLane(), from = lane ^ static_cast<unsigned>(lanes);
  if (from / width > lane / width) return value;
  if (!(mask >> from & 1)) fail("a shuffle reads a lane that is not in its mask");
  return shown<T>(half, from);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  using namespace espalier::emulation;
  const unsigned half = exchange(mask, value), lane = ownLane(), from = lane + delta;
  return from / width != lane / width ? value : shown<T>(half, from);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  using namespace espalier::emulation;
  const unsigned half = exchange(mask, value), lane = ownLane();
  return lane % width < delta ? value : shown<T>(half, lane - delta);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  using namespace espalier::emulation;
  const unsigned half = exchange(mask, predicate);
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; lane++) {
    if (mask >> lane & 1 && shown<int>(half, lane) != 0) result |= 1u << lane;
  }
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

template <typename T>
inline T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}
inline unsigned atomicInc(unsigned* address, unsigned last) {
  const unsigned before = *address;
  *address = before >= last ? 0 : before + 1;
  return before;
}
template <typename T>
inline T atomicMax(T* address, T value) {
  const T before = *address;
  if (value > before) *address = value;
  return before;
}
template <typename T>
inline T atomicExch(T* address, T value) {
  const T before = *address;
  *address = value;
  return before;
}
template <typename T>
inline T __ldg(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcg(const T* address) {
  return *address;
}
template <typename T>
inline T __ldcs(const T* address) {
  return *address;
}
template <typename T>
inline void __stcs(T* address, T value) {
  *address = value;
}
template <typename T>
inline void __stcg(T* address, T value) {
  *address = value;
}

// ---- numbers

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return bits;
}
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }
inline float __uint_as_float(unsigned bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __saturatef(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
inline size_t max(size_t a, size_t b) { return a > b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
// Selects bytes of the eight in y:x; no sign mode.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; i++) {
    result |= static_cast<unsigned>(bytes >> (selector >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
  }
  return result;
}

// ---- binary16

struct alignas(2) __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

namespace espalier {
namespace emulation {

// Rounds once, to nearest, ties to even. Sums and products of halves are exact in a double or too close to call for no
// half; so one rounding is all there is.
inline __half roundToHalf(double value) {
  uint64_t bits;
  memcpy(&bits, &value, 8);
  const uint16_t sign = static_cast<uint16_t>(bits >> 48 & 0x8000);
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff) - 1023;
  const uint64_t fraction = bits & ((uint64_t{1} << 52) - 1);
  if (exponent == 1024) return {static_cast<uint16_t>(sign | 0x7c00 | (fraction ? 0x200 : 0))};
  if (exponent > 15) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (exponent < -25) return {sign};
  // Bits that do not fit: 42 of a normal number, more of a subnormal one.
  const unsigned shift = exponent >= -14 ? 42 : static_cast<unsigned>(42 - 14 - exponent);
  const uint64_t whole = fraction | uint64_t{1} << 52;
  uint64_t kept = whole >> shift;
  const uint64_t rest = whole & ((uint64_t{1} << shift) - 1), tie = uint64_t{1} << (shift - 1);
  if (rest > tie || (rest == tie && kept & 1)) kept++;
  // A carry out of the fraction goes to the exponent, as it should.
  const uint64_t magnitude = exponent >= -14 ? kept + (static_cast<uint64_t>(exponent + 14) << 10) : kept;
  return {static_cast<uint16_t>(sign | magnitude)};
}

inline float widen(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude < 0x400) {
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  return __uint_as_float(sign | ((magnitude << 13) + 0x38000000));
}

struct HalfTable {
  float values[65536];
  HalfTable() {
    for (unsigned i = 0; i < 65536; i++) values[i] = widen(static_cast<uint16_t>(i));
  }
};
inline const HalfTable halfTable;

}  // namespace emulation
}  // namespace espalier

inline __half __float2half_rn(float x) { return espalier::emulation::roundToHalf(static_cast<double>(x)); }
inline __half __float2half(float x) { return __float2half_rn(x); }
inline float __half2float(__half x) { return espalier::emulation::halfTable.values[x.bits]; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline __half2 make_half2(__half a, __half b) { return {a, b}; }
inline __half2 __half2half2(__half a) { return {a, a}; }
inline __half2 __floats2half2_rn(float a, float b) { return {__float2half_rn(a), __float2half_rn(b)}; }
inline __half2 __float22half2_rn(float2 a) { return __floats2half2_rn(a.x, a.y); }
inline __half2 __float2half2_rn(float a) { return __half2half2(__float2half_rn(a)); }
inline float2 __half22float2(__half2 a) { return {__half2float(a.x), __half2float(a.y)}; }
inline float __low2float(__half2 a) { return __half2float(a.x); }
inline float __high2float(__half2 a) { return __half2float(a.y); }
inline __half __low2half(__half2 a) { return a.x; }
inline __half __high2half(__half2 a) { return a.y; }
inline __half __hadd(__half a, __half b) {
  return espalier::emulation::roundToHalf(static_cast<double>(__half2float(a)) + static_cast<double>(__half2float(b)));
}
inline __half __hsub(__half a, __half b) {
  return espalier::emulation::roundToHalf(static_cast<double>(__half2float(a)) - static_cast<double>(__half2float(b)));
}
inline __half __hmul(__half a, __half b) {
  return espalier::emulation::roundToHalf(static_cast<double>(__half2float(a)) * static_cast<double>(__half2float(b)));
}
inline __half __hfma(__half a, __half b, __half c) {
  return espalier::emulation::roundToHalf(static_cast<double>(__half2float(a)) * static_cast<double>(__half2float(b)) +
                                          static_cast<double>(__half2float(c)));
}
inline __half __hmax(__half a, __half b) { return __half2float(a) > __half2float(b) ? a : b; }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline __half2 __hmax2(__half2 a, __half2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }

// ---- products of a warpgroup

namespace espalier {
namespace emulation {

inline void startProduct(float* d, const uint32_t* a, uint64_t b, int eights) {
  machine.products[machine.current].started.push_back({d, a, b, eights});
}

inline void commitProducts() {
  Products& own = machine.products[machine.current];
  size_t before = 0;
  for (const size_t count : own.groups) before += count;
  own.groups.push_back(own.started.size() - before);
}

// A half of a matrix in shared memory, K-major in swizzles of 128 bytes.
inline float elementOf(uint64_t matrix, unsigned row, unsigned column) {
  if (matrix >> 62 != 1) fail("a matrix is not swizzled by 128 bytes");
  const uint64_t start = (matrix & 0x3fff) << 4, eightRows = (matrix >> 32 & 0x3fff) << 4;
  uint64_t address = start + row / 8 * eightRows + row % 8 * 128 + column * 2;
  address ^= (address >> 7 & 7) << 4;
  uint16_t bits;
  memcpy(&bits, machine.shared + address, 2);
  return halfTable.values[bits];
}

// The lanes of a warp together: their rows of the product.
inline void finish(const StartedProduct& product) {
  struct Fragment {
    uint32_t a[4];
  } own;
  memcpy(own.a, product.a, sizeof(own.a));
  const unsigned half = exchange(~0u, own), g = ownLane() / 4, t = ownLane() % 4;
  float rows[2][16];
  for (unsigned quad = 0; quad < 4; quad++) {
    const Fragment fragment = shown<Fragment>(half, 4 * g + quad);
    for (unsigned i = 0; i < 4; i++) {
      for (unsigned odd = 0; odd < 2; odd++) {
        rows[i % 2][2 * quad + odd + i / 2 * 8] = halfTable.values[fragment.a[i] >> 16 * odd & 0xffff];
      }
    }
  }
  for (int eight = 0; eight < product.eights; eight++) {
    for (unsigned odd = 0; odd < 2; odd++) {
      float column[16];
      for (unsigned k = 0; k < 16; k++) {
        column[k] = elementOf(product.b, 8 * static_cast<unsigned>(eight) + 2 * t + odd, k);
      }
      for (unsigned lower = 0; lower < 2; lower++) {
        float& d = product.d[4 * eight + 2 * static_cast<int>(lower) + static_cast<int>(odd)];
        double sum = static_cast<double>(d);
        for (unsigned k = 0; k < 16; k++) sum += static_cast<double>(rows[lower][k]) * static_cast<double>(column[k]);
        d = static_cast<float>(sum);
      }
    }
  }
  exchange(~0u, char{0});  // nobody goes on to change what others still read
}

inline void waitForProducts(size_t pending) {
  Products& own = machine.products[machine.current];
  while (own.groups.size() > pending) {
    const size_t count = own.groups.front();
    for (size_t i = 0; i < count; i++) finish(own.started[i]);
    own.started.erase(own.started.begin(), own.started.begin() + static_cast<long>(count));
    own.groups.erase(own.groups.begin());
  }
}

}  // namespace emulation
}  // namespace espalier

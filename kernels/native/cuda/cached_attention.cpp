#include <atomic>

#include "cuda_operator.h"
#include "lane_attention.h"
#include "operators.h"

namespace espalier::cuda {
namespace {

enum Input : size_t { packed = 0, lanes = 1, cosines = 2, sines = 3, pairs = 4, keys = 5, values = 6, inputCount = 7 };

constexpr size_t kernelCount = sizeof(attentionKernels) / sizeof(*attentionKernels);

struct CachedAttention {
  explicit CachedAttention(ort::Api api) : api(api) {}
  ~CachedAttention() {
    if (arrived) {
      if (ort::Status* status = ort::AllocatorFree::call(api, allocator, arrived))
        ort::ReleaseStatus::call(api, status);
    }
    if (allocator) ort::ReleaseAllocator::call(api, allocator);
  }
  CachedAttention(const CachedAttention&) = delete;
  CachedAttention& operator=(const CachedAttention&) = delete;

  ort::Api api;
  ort::Allocator* allocator = nullptr;
  const Device* device = nullptr;
  const Function* functions[kernelCount] = {};
  const Function* clear = nullptr;
  AttentionParameters shape{};
  size_t levels = 0;
  bool turns = false;
  // Zero between runs. One run at a time: runs of one session share its pools, too.
  void* arrived = nullptr;
  size_t counters = 0;
  mutable std::atomic<bool> cleared{false};

  ort::Status* prepare(const ort::KernelInfo* info) {
    size_t queryHeads = 0, keyHeads = 0, widest = 0, turned = 0;
    int64_t widths[maxLevels] = {};
    RETURN_IF_FAILED(ort::GetAllocator::call(api, info, 0, &allocator));
    RETURN_IF_FAILED(readInteger({api, info}, "query_heads", &queryHeads));
    RETURN_IF_FAILED(readInteger({api, info}, "key_heads", &keyHeads));
    RETURN_IF_FAILED(readInteger({api, info}, "widest", &widest));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "scale", &shape.scale));
    RETURN_IF_FAILED(readInteger({api, info}, "turns", &turned));
    RETURN_IF_FAILED(readIntegers({api, info}, "widths", widths, maxLevels, &levels));
    if (keyHeads == 0 || queryHeads % keyHeads != 0 || queryHeads == 0 || queryHeads > static_cast<size_t>(maxHeads) ||
        widest == 0 || widest > static_cast<size_t>(maxHeadWidth) || widest % 2 != 0) {
      return failure(api,
                     "CachedAttention: %zu query heads, %zu key heads of %zu are none: there are up to %d heads of an "
                     "even number up to %d",
                     queryHeads, keyHeads, widest, maxHeads, maxHeadWidth);
    }
    for (size_t i = 0; i < levels; i++) {
      if (widths[i] < 1 || widths[i] > static_cast<int64_t>(widest) || (turned && widths[i] % 2 != 0)) {
        return failure(api, "CachedAttention: level %zu keeps %lld of %zu components%s", i,
                       static_cast<long long>(widths[i]), widest, turned ? ", wanted an even number" : "");
      }
      shape.widths[i] = static_cast<int>(widths[i]);
    }
    if (levels == 0) return failure(api, "CachedAttention: no level has a width");
    turns = turned != 0;
    shape.queryHeads = static_cast<int>(queryHeads);
    shape.keyHeads = static_cast<int>(keyHeads);
    shape.widest = static_cast<int>(widest);
    RETURN_IF_DRIVER_FAILED(openDevice(&device));
    for (size_t i = 0; i < kernelCount; i++) {
      RETURN_IF_DRIVER_FAILED(findFunction(attentionKernels[i].name, attentionKernels[i].sharedBytes, &functions[i]));
    }
    RETURN_IF_DRIVER_FAILED(findFunction("clearCounters", 0, &clear));
    counters = attentionCounters(shape);
    return ort::AllocatorAlloc::call(api, allocator, counters * sizeof(unsigned), &arrived);
  }

  ort::Status* compute(ort::KernelContext* context) const {
    AttentionParameters p = shape;
    Shape packedShape, lanesShape;
    RETURN_IF_FAILED(readInput(api, context, Input::packed, &p.packed, &packedShape));
    const int32_t* lines = nullptr;
    RETURN_IF_FAILED(readInput(api, context, Input::lanes, &lines, &lanesShape));
    p.lanes = reinterpret_cast<const LaneLine*>(lines);
    const int64_t rows = packedShape.rank > 0 ? packedShape.sizes[0] : 0;
    const int64_t heads = p.queryHeads + 2 * p.keyHeads;
    if (packedShape.count() != rows * heads * p.widest || rows > maxAttentionRows) {
      return failure(api, "CachedAttention: %lld elements in %lld rows, wanted %lld heads of %d a row, %d rows at most",
                     static_cast<long long>(packedShape.count()), static_cast<long long>(rows),
                     static_cast<long long>(heads), p.widest, maxAttentionRows);
    }
    const int64_t laneCount = lanesShape.rank == 2 ? lanesShape.sizes[0] : 0;
    if (laneCount < 1 || laneCount > maxLanes || lanesShape.sizes[1] != laneStride) {
      return failure(api, "CachedAttention: %lld integers of lanes, wanted [1 to %d, %d]",
                     static_cast<long long>(lanesShape.count()), maxLanes, laneStride);
    }
    p.rows = static_cast<int>(rows);
    p.laneCount = static_cast<int>(laneCount);
    if (turns) RETURN_IF_FAILED(takeAngles(context, rows, &p));
    RETURN_IF_FAILED(takePool(context, Input::keys, &p.keys, &p));
    RETURN_IF_FAILED(takePool(context, Input::values, &p.values, &p));
    Shape out;
    out.rank = 3;
    out.sizes[0] = rows;
    out.sizes[1] = p.queryHeads;
    out.sizes[2] = p.widest;
    RETURN_IF_FAILED(makeOutput(api, context, 0, out, &p.y));
    if (rows == 0) return nullptr;

    WorkMemory memory(api, allocator);
    RETURN_IF_FAILED(memory.allocate(attentionWorkBytes(p), &p.work));
    p.arrived = static_cast<unsigned*>(arrived);
    Stream* stream = nullptr;
    RETURN_IF_FAILED(streamOf(api, context, &stream));
    if (!cleared.exchange(true)) {
      const CounterParameters all{p.arrived, counters};
      RETURN_IF_DRIVER_FAILED(launch({clear, {}, 256, 0, false}, stream, &all));
    }
    AttentionLaunch launches[2];
    const size_t count = attentionLaunches(&p, device->multiprocessors, launches);
    for (size_t i = 0; i < count; i++) {
      const AttentionLaunch& next = launches[i];
      RETURN_IF_DRIVER_FAILED(
          launch({functions[next.kernel], next.grid, next.threads, next.sharedBytes, true}, stream, &p));
    }
    return nullptr;
  }

  ort::Status* takeAngles(ort::KernelContext* context, int64_t rows, AttentionParameters* p) const {
    Shape cosinesShape, sinesShape, pairsShape;
    RETURN_IF_FAILED(readInput(api, context, Input::cosines, &p->cosines, &cosinesShape));
    RETURN_IF_FAILED(readInput(api, context, Input::sines, &p->sines, &sinesShape));
    RETURN_IF_FAILED(readInput(api, context, Input::pairs, &p->pairs, &pairsShape));
    const int64_t frequencies = cosinesShape.rank == 2 ? cosinesShape.sizes[1] : 0;
    // Pairs are on the device: that none is beyond the frequencies is for the graph's builder to see to.
    if (!p->cosines || !p->sines || !p->pairs || frequencies < 1 || cosinesShape.count() != rows * frequencies ||
        sinesShape.count() != rows * frequencies || pairsShape.count() != p->keyHeads * (p->widest / 2)) {
      return failure(api, "CachedAttention: angles of %lld frequencies for %lld rows and %lld pairs, wanted %d pairs",
                     static_cast<long long>(frequencies), static_cast<long long>(rows),
                     static_cast<long long>(pairsShape.count()), p->keyHeads * (p->widest / 2));
    }
    p->frequencies = static_cast<int>(frequencies);
    return nullptr;
  }

  // The keys or the values of all slots, which are written where they are read.
  ort::Status* takePool(ort::KernelContext* context, size_t index, uint16_t** pool, AttentionParameters* p) const {
    const uint16_t* past = nullptr;
    Shape found;
    RETURN_IF_FAILED(readInput(api, context, index, &past, &found));
    const int64_t* sizes = found.sizes;
    const bool first = index == Input::keys;
    if (found.rank != 4 || sizes[0] < 1 || sizes[0] > INT32_MAX || sizes[1] != p->keyHeads || sizes[2] < 1 ||
        sizes[2] > INT32_MAX || sizes[3] != p->widest ||
        (!first && (sizes[0] != p->slots || sizes[2] != p->capacity))) {
      return failure(api,
                     "CachedAttention: the pool of %s is [%lld, %lld, %lld, %lld], wanted [slots, %d, capacity, %d], "
                     "alike for keys and values",
                     first ? "keys" : "values", static_cast<long long>(sizes[0]), static_cast<long long>(sizes[1]),
                     static_cast<long long>(sizes[2]), static_cast<long long>(sizes[3]), p->keyHeads, p->widest);
    }
    RETURN_IF_FAILED(makeOutput(api, context, index - Input::keys + 1, found, pool));
    if (*pool != past) {
      return failure(api, "CachedAttention: the pool of %s must be bound to its output: it is written in place",
                     first ? "keys" : "values");
    }
    p->slots = static_cast<int>(sizes[0]);
    p->capacity = static_cast<int>(sizes[2]);
    return nullptr;
  }

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cudaOperator<CachedAttention>();
    op.getName = [](const ort::CustomOp*) -> const char* { return "CachedAttention"; };
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return inputCount; };
    op.getInputType = [](const ort::CustomOp*, size_t index) {
      return index == Input::lanes   ? ort::int32
             : index == Input::pairs ? ort::int64
             : index < Input::keys   ? ort::float32
                                     : ort::float16;
    };
    op.getInputPresence = [](const ort::CustomOp*, size_t index) {
      return index >= Input::cosines && index <= Input::pairs ? ort::optional : ort::required;
    };
    op.getOutputCount = [](const ort::CustomOp*) -> size_t { return 3; };
    op.getOutputType = [](const ort::CustomOp*, size_t index) { return index == 0 ? ort::float32 : ort::float16; };
    return op;
  }
};

constexpr ort::CustomOp description = CachedAttention::describe();

}  // namespace

const ort::CustomOp* cachedAttention() { return &description; }

}  // namespace espalier::cuda

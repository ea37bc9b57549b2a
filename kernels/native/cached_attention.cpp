#include "cached_attention.h"

#include <cstring>

#include "lane_attention.h"
#include "operator.h"

namespace espalier {
namespace {

constexpr size_t maxLanes = 64;

// Inputs before the caches.
enum Input : size_t { packed = 0, laneRows = 1, laneLengths = 2, cosines = 3, sines = 4, pairs = 5, firstCache = 6 };

struct CachedAttention {
  explicit CachedAttention(ort::Api api) : api(api) {}
  ~CachedAttention() {
    delete attention;
    if (allocator) ort::ReleaseAllocator::call(api, allocator);
  }
  CachedAttention(const CachedAttention&) = delete;
  CachedAttention& operator=(const CachedAttention&) = delete;

  ort::Api api;
  ort::Allocator* allocator = nullptr;
  LaneAttention* attention = nullptr;
  const int64_t* pairs = nullptr;
  int64_t pairCount = 0;
  int64_t greatestPair = 0;

  ort::Status* prepare(const ort::KernelInfo* info) {
    AttentionShape shape{};
    RETURN_IF_FAILED(ort::GetAllocator::call(api, info, 0, &allocator));
    RETURN_IF_FAILED(readInteger(api, info, "query_heads", &shape.queryHeads));
    RETURN_IF_FAILED(readInteger(api, info, "key_heads", &shape.keyHeads));
    RETURN_IF_FAILED(readInteger(api, info, "widest", &shape.widest));
    RETURN_IF_FAILED(ort::GetFloatAttribute::call(api, info, "scale", &shape.scale));
    if (shape.keyHeads == 0 || shape.queryHeads % shape.keyHeads != 0 || shape.queryHeads == 0 || shape.widest == 0 ||
        shape.widest > maxHeadWidth) {
      return failure(api, "CachedAttention: %zu query heads, %zu key heads of %zu are none: heads have 1 to %zu",
                     shape.queryHeads, shape.keyHeads, shape.widest, maxHeadWidth);
    }
    attention = new (std::nothrow) LaneAttention(*routines, shape);
    if (!attention) return failure(api, "CachedAttention: out of memory");
    size_t turns = 0;
    RETURN_IF_FAILED(readInteger(api, info, "turns", &turns));
    if (turns == 0) return nullptr;
    Shape pairsShape;
    RETURN_IF_FAILED(readConstant(api, info, Input::pairs, &pairs, &pairsShape));
    pairCount = static_cast<int64_t>(shape.keyHeads * (shape.widest / 2));
    if (pairsShape.count() != pairCount || shape.widest % 2 != 0) {
      return failure(api, "CachedAttention: %lld pairs for %zu heads of %zu",
                     static_cast<long long>(pairsShape.count()), shape.keyHeads, shape.widest);
    }
    for (int64_t i = 0; i < pairCount; i++) {
      if (pairs[i] < 0) return failure(api, "CachedAttention: pair %lld", static_cast<long long>(pairs[i]));
      if (pairs[i] > greatestPair) greatestPair = pairs[i];
    }
    return nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    const AttentionShape& shape = attention->shape();
    const size_t heads = shape.queryHeads + 2 * shape.keyHeads;
    AttentionRun run{};
    Shape packedShape, rowsShape, lengthsShape, cosinesShape, sinesShape;
    const int64_t* laneRows = nullptr;
    const int32_t* laneLengths = nullptr;
    RETURN_IF_FAILED(readInput(api, context, Input::packed, &run.packed, &packedShape));
    RETURN_IF_FAILED(readInput(api, context, Input::laneRows, &laneRows, &rowsShape));
    RETURN_IF_FAILED(readInput(api, context, Input::laneLengths, &laneLengths, &lengthsShape));
    const int64_t rows = packedShape.rank > 0 ? packedShape.sizes[0] : 0;
    if (packedShape.count() != rows * static_cast<int64_t>(heads * shape.widest)) {
      return failure(api, "CachedAttention: %lld elements in %lld rows, wanted %zu heads of %zu a row",
                     static_cast<long long>(packedShape.count()), static_cast<long long>(rows), heads, shape.widest);
    }
    const size_t count = static_cast<size_t>(rowsShape.count());
    if (count > maxLanes || lengthsShape.count() != rowsShape.count()) {
      return failure(api, "CachedAttention: %zu lanes with %lld lengths, wanted as many and at most %zu", count,
                     static_cast<long long>(lengthsShape.count()), maxLanes);
    }
    if (pairs) {
      RETURN_IF_FAILED(readInput(api, context, Input::cosines, &run.cosines, &cosinesShape));
      RETURN_IF_FAILED(readInput(api, context, Input::sines, &run.sines, &sinesShape));
      const int64_t frequencies = cosinesShape.rank == 2 ? cosinesShape.sizes[1] : 0;
      if (!run.cosines || !run.sines || cosinesShape.count() != rows * frequencies ||
          sinesShape.count() != rows * frequencies || greatestPair >= frequencies) {
        return failure(api, "CachedAttention: angles of %lld frequencies for %lld rows and pairs up to %lld",
                       static_cast<long long>(frequencies), static_cast<long long>(rows),
                       static_cast<long long>(greatestPair));
      }
      run.pairs = pairs;
      run.frequencies = static_cast<size_t>(frequencies);
    }
    Shape out;
    out.rank = 3;
    out.sizes[0] = rows;
    out.sizes[1] = static_cast<int64_t>(shape.queryHeads);
    out.sizes[2] = static_cast<int64_t>(shape.widest);
    RETURN_IF_FAILED(makeOutput(api, context, 0, out, &run.y));

    Lane lanes[maxLanes];
    int64_t rowsLeft = rows;
    for (size_t i = 0; i < count; i++) {
      if (laneRows[i] == 0) continue;
      if (laneRows[i] < 0 || laneRows[i] > rowsLeft || laneLengths[i] < laneRows[i]) {
        return failure(api, "CachedAttention: lane %zu has %lld of %lld rows and a length of %d", i,
                       static_cast<long long>(laneRows[i]), static_cast<long long>(rowsLeft), laneLengths[i]);
      }
      rowsLeft -= laneRows[i];
      Lane& lane = lanes[run.laneCount++];
      lane.rows = static_cast<size_t>(laneRows[i]);
      lane.length = static_cast<size_t>(laneLengths[i]);
      RETURN_IF_FAILED(takeCaches(context, i, &lane));
    }
    if (rowsLeft != 0) {
      return failure(api, "CachedAttention: %lld rows belong to no lane", static_cast<long long>(rowsLeft));
    }
    run.lanes = lanes;
    WorkMemory memory(api, allocator);
    void* work = nullptr;
    if (const size_t bytes = attention->workBytes(run)) RETURN_IF_FAILED(memory.allocate(bytes, &work));
    ThreadedRun threads;
    attention->run(run, work, threadsOf(api, context, &threads));
    return nullptr;
  }

  // The caches of a lane, at their outputs.
  ort::Status* takeCaches(ort::KernelContext* context, size_t index, Lane* lane) const {
    const AttentionShape& shape = attention->shape();
    float** const places[] = {&lane->keys, &lane->values};
    Shape shapes[2];
    for (size_t i = 0; i < 2; i++) {
      const float* past = nullptr;
      RETURN_IF_FAILED(readInput(api, context, firstCache + 2 * index + i, &past, &shapes[i]));
      const int64_t* sizes = shapes[i].sizes;
      if (!past || shapes[i].rank != 4 || sizes[0] != 1 || sizes[1] != static_cast<int64_t>(shape.keyHeads) ||
          sizes[2] != shapes[0].sizes[2] || sizes[2] % static_cast<int64_t>(keyTokens) != 0 ||
          sizes[2] < static_cast<int64_t>(lane->length) || sizes[3] != shapes[0].sizes[3] || sizes[3] < 1 ||
          sizes[3] > static_cast<int64_t>(shape.widest) || (pairs && sizes[3] % 2 != 0)) {
        return failure(
            api,
            "CachedAttention: lane %zu has a cache of [%lld, %lld, %lld, %lld], wanted [1, %zu, at least %zu "
            "by %zu, at most %zu]",
            index, static_cast<long long>(sizes[0]), static_cast<long long>(sizes[1]), static_cast<long long>(sizes[2]),
            static_cast<long long>(sizes[3]), shape.keyHeads, lane->length, keyTokens, shape.widest);
      }
      RETURN_IF_FAILED(makeOutput(api, context, 1 + 2 * index + i, shapes[i], places[i]));
      const size_t bytes = static_cast<size_t>(shapes[i].count()) * sizeof(float);
      if (*places[i] != past) std::memcpy(*places[i], past, bytes);
    }
    lane->capacity = static_cast<size_t>(shapes[0].sizes[2]);
    lane->width = static_cast<size_t>(shapes[0].sizes[3]);
    return nullptr;
  }

  static const Routines* routines;

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cpuOperator<CachedAttention>();
    op.getName = [](const ort::CustomOp*) -> const char* { return "CachedAttention"; };
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return firstCache + 1; };
    op.getInputType = [](const ort::CustomOp*, size_t index) {
      return index == Input::laneRows || index == Input::pairs ? ort::int64
             : index == Input::laneLengths                     ? ort::int32
                                                               : ort::float32;
    };
    op.getInputPresence = [](const ort::CustomOp*, size_t index) {
      return index < cosines ? ort::required : index < firstCache ? ort::optional : ort::variadic;
    };
    op.getVariadicInputSameType = [](const ort::CustomOp*) { return 1; };
    op.getVariadicInputMinimum = [](const ort::CustomOp*) { return 2; };
    op.getOutputCount = [](const ort::CustomOp*) -> size_t { return 2; };
    op.getOutputPresence = [](const ort::CustomOp*, size_t index) {
      return index == 0 ? ort::required : ort::variadic;
    };
    op.getVariadicOutputMinimum = [](const ort::CustomOp*) { return 2; };
    return op;
  }
};

const Routines* CachedAttention::routines = nullptr;

constexpr ort::CustomOp description = CachedAttention::describe();

}  // namespace

const ort::CustomOp* cachedAttention(const Routines& routines) {
  CachedAttention::routines = &routines;
  return &description;
}

}  // namespace espalier

#include "cached_attention.h"

#include "lane_arrays.h"
#include "lane_attention.h"
#include "lanes.h"
#include "operator.h"

namespace espalier {
namespace {

// Inputs before the lanes' arrays.
enum Input : size_t {
  packed = 0,
  laneRows = 1,
  laneLevels = 2,
  laneLengths = 3,
  places = 4,
  cosines = 5,
  sines = 6,
  pairs = 7,
  firstArray = 8
};

// A run, with its lanes.
struct BoundAttention {
  AttentionRun run;
  Lane lanes[maxLanes];
};

class CachedAttention final : public OperatorOf<BoundAttention> {
 public:
  explicit CachedAttention(const Routines& routines) : routines_(routines) {}
  ~CachedAttention() override { delete attention_; }
  CachedAttention(const CachedAttention&) = delete;
  CachedAttention& operator=(const CachedAttention&) = delete;

  ort::Status* prepare(const OperatorInfo& info) override {
    const ort::Api api = info.api;
    AttentionShape shape{};
    RETURN_IF_FAILED(readInteger(info, "query_heads", &shape.queryHeads));
    RETURN_IF_FAILED(readInteger(info, "key_heads", &shape.keyHeads));
    RETURN_IF_FAILED(readInteger(info, "widest", &shape.widest));
    RETURN_IF_FAILED(readFloat(info, "scale", &shape.scale));
    if (shape.keyHeads == 0 || shape.queryHeads % shape.keyHeads != 0 || shape.queryHeads == 0 || shape.widest == 0 ||
        shape.widest > maxHeadWidth) {
      return failure(api,
                     "CachedAttention: cannot attend with %zu query heads and %zu key heads of width %zu: query heads "
                     "must be a positive multiple of the key heads, widths 1 to %zu",
                     shape.queryHeads, shape.keyHeads, shape.widest, maxHeadWidth);
    }
    RETURN_IF_FAILED(widths_.read(info, "CachedAttention", "widths", shape.widest));
    RETURN_IF_FAILED(readInteger(info, "first_cache", &firstCache_));
    attention_ = new (std::nothrow) LaneAttention(routines_, shape);
    if (!attention_) return failure(api, "CachedAttention: out of memory");
    size_t turns = 0;
    RETURN_IF_FAILED(readInteger(info, "turns", &turns));
    if (turns == 0) return nullptr;
    Shape pairsShape, cosinesShape, sinesShape;
    RETURN_IF_FAILED(readConstant(info, Input::pairs, &pairs_, &pairsShape));
    RETURN_IF_FAILED(readConstant(info, Input::cosines, &cosines_, &cosinesShape));
    RETURN_IF_FAILED(readConstant(info, Input::sines, &sines_, &sinesShape));
    const int64_t pairCount = static_cast<int64_t>(shape.keyHeads * (shape.widest / 2));
    if (pairsShape.count() != pairCount || shape.widest % 2 != 0) {
      return failure(api, "CachedAttention: %lld pairs for %zu heads of %zu",
                     static_cast<long long>(pairsShape.count()), shape.keyHeads, shape.widest);
    }
    if (cosinesShape.rank != 2 || sinesShape.count() != cosinesShape.count()) {
      return failure(api, "CachedAttention: %lld cosines and %lld sines, wanted as many, by place and frequency",
                     static_cast<long long>(cosinesShape.count()), static_cast<long long>(sinesShape.count()));
    }
    places_ = cosinesShape.sizes[0];
    frequencies_ = static_cast<size_t>(cosinesShape.sizes[1]);
    for (size_t level = 0; level < widths_.levels; level++) {
      if (widths_.widths[level] % 2 == 0) continue;
      return failure(api, "CachedAttention: heads of %zu at level %zu are not whole pairs", widths_.widths[level],
                     level);
    }
    for (int64_t i = 0; i < pairCount; i++) {
      if (pairs_[i] >= 0 && pairs_[i] < cosinesShape.sizes[1]) continue;
      return failure(api, "CachedAttention: pair %lld, wanted one of %zu", static_cast<long long>(pairs_[i]),
                     frequencies_);
    }
    return nullptr;
  }

  size_t columns() const override { return attention_->shape().queryHeads * attention_->shape().widest; }
  size_t loops() const override { return LaneAttention::loops; }

 protected:
  ort::Status* bind(Operands& operands, BoundAttention& bound) const override {
    const ort::Api api = operands.api;
    const AttentionShape& shape = attention_->shape();
    const size_t heads = shape.queryHeads + 2 * shape.keyHeads;
    AttentionRun& run = bound.run = {};
    Shape packedShape, rowsShape, levelsShape, lengthsShape;
    const int64_t *laneRows = nullptr, *laneLevels = nullptr;
    const int32_t* laneLengths = nullptr;
    RETURN_IF_FAILED(operands.input(Input::packed, &run.packed, &packedShape));
    RETURN_IF_FAILED(operands.input(Input::laneRows, &laneRows, &rowsShape));
    RETURN_IF_FAILED(operands.input(Input::laneLevels, &laneLevels, &levelsShape));
    RETURN_IF_FAILED(operands.input(Input::laneLengths, &laneLengths, &lengthsShape));
    const int64_t rows = packedShape.rank > 0 ? packedShape.sizes[0] : 0;
    if (packedShape.count() != rows * static_cast<int64_t>(heads * shape.widest)) {
      return failure(api, "CachedAttention: %lld elements in %lld rows, wanted %zu heads of %zu a row",
                     static_cast<long long>(packedShape.count()), static_cast<long long>(rows), heads, shape.widest);
    }
    const size_t count = static_cast<size_t>(rowsShape.count());
    if (count > maxLanes || lengthsShape.count() != rowsShape.count() || levelsShape.count() != rowsShape.count()) {
      return failure(
          api, "CachedAttention: %zu lanes with %lld levels and %lld lengths, wanted as many and at most %zu", count,
          static_cast<long long>(levelsShape.count()), static_cast<long long>(lengthsShape.count()), maxLanes);
    }
    run.cosines = cosines_;
    run.sines = sines_;
    run.pairs = pairs_;
    run.frequencies = frequencies_;
    Shape out;
    out.rank = 3;
    out.sizes[0] = rows;
    out.sizes[1] = static_cast<int64_t>(shape.queryHeads);
    out.sizes[2] = static_cast<int64_t>(shape.widest);
    RETURN_IF_FAILED(operands.output(out, &run.y));

    LaneArrays arrays(operands, "CachedAttention");
    RETURN_IF_FAILED(arrays.open(Input::places, firstCache_, 2));
    // Two halves in the place of a float. Places end with a line of the processor's cache.
    const size_t perToken = shape.keyHeads * shape.widest, halves = 2 * arrays.floats(0);
    const size_t capacity = halves / perToken / keyTokens * keyTokens;
    if (halves - capacity * perToken >= lineHalves || arrays.floats(1) != arrays.floats(0)) {
      return failure(api,
                     "CachedAttention: keys of %zu floats and values of %zu, wanted half of %zu a token and whole %zu "
                     "tokens",
                     arrays.floats(0), arrays.floats(1), perToken, keyTokens);
    }
    int64_t rowsLeft = rows;
    for (size_t i = 0; i < count; i++) {
      if (laneRows[i] == 0) continue;
      if (laneRows[i] < 0 || laneRows[i] > rowsLeft || laneLengths[i] < laneRows[i] || laneLevels[i] < 0 ||
          laneLevels[i] >= static_cast<int64_t>(widths_.levels)) {
        return failure(api, "CachedAttention: lane %zu has %lld of %lld rows, a length of %d and level %lld of %zu", i,
                       static_cast<long long>(laneRows[i]), static_cast<long long>(rowsLeft), laneLengths[i],
                       static_cast<long long>(laneLevels[i]), widths_.levels);
      }
      if (pairs_ && laneLengths[i] > places_) {
        return failure(api, "CachedAttention: lane %zu has %d tokens, there are angles for %lld", i, laneLengths[i],
                       static_cast<long long>(places_));
      }
      if (static_cast<size_t>(laneLengths[i]) > capacity) {
        return failure(api, "CachedAttention: lane %zu has %d tokens, its cache holds %zu", i, laneLengths[i],
                       capacity);
      }
      rowsLeft -= laneRows[i];
      Lane& lane = bound.lanes[run.laneCount++];
      lane.rows = static_cast<size_t>(laneRows[i]);
      lane.length = static_cast<size_t>(laneLengths[i]);
      lane.capacity = capacity;
      lane.width = widths_.widths[laneLevels[i]];
      float* caches[2];
      RETURN_IF_FAILED(arrays.take(firstArray + i, caches));
      lane.keys = reinterpret_cast<Half*>(caches[0]);
      lane.values = reinterpret_cast<Half*>(caches[1]);
    }
    if (rowsLeft != 0) {
      return failure(api, "CachedAttention: %lld rows belong to no lane", static_cast<long long>(rowsLeft));
    }
    run.lanes = bound.lanes;
    return nullptr;
  }

  size_t workBytes(const BoundAttention& bound) const override { return attention_->workBytes(bound.run); }

  void compute(const BoundAttention& bound, void* work, const Parallel& parallel) const override {
    attention_->run(bound.run, work, parallel);
  }

 private:
  const Routines& routines_;
  LaneAttention* attention_ = nullptr;
  LevelWidths widths_;
  size_t firstCache_ = 0;
  const int64_t* pairs_ = nullptr;
  const float *cosines_ = nullptr, *sines_ = nullptr;
  int64_t places_ = 0;  // of which there are angles
  size_t frequencies_ = 0;
};

CpuOperator* create(const Routines& routines) { return new (std::nothrow) CachedAttention(routines); }

void describeInputs(ort::CustomOp* op) {
  op->getInputCount = [](const ort::CustomOp*) -> size_t { return firstArray + 1; };
  op->getInputType = [](const ort::CustomOp*, size_t index) {
    switch (index) {
      case Input::laneRows:
      case Input::laneLevels:
      case Input::places:
      case Input::pairs:
        return ort::int64;
      case Input::laneLengths:
        return ort::int32;
      default:
        return ort::float32;
    }
  };
  op->getInputPresence = [](const ort::CustomOp*, size_t index) {
    return index < cosines ? ort::required : index < firstArray ? ort::optional : ort::variadic;
  };
  op->getVariadicInputSameType = [](const ort::CustomOp*) { return 1; };
}

}  // namespace

const OperatorKind cachedAttention = {"CachedAttention", create, describeInputs};

}  // namespace espalier

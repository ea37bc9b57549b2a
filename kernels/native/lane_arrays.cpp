#include "lane_arrays.h"

namespace espalier {

ort::Status* LevelWidths::read(const OperatorInfo& info, const char* op, const char* name, size_t widest) {
  const ort::Api api = info.api;
  int64_t values[maxLevels];
  RETURN_IF_FAILED(readIntegers(info, name, values, maxLevels, &levels));
  if (levels == 0) return failure(api, "%s: no %s", op, name);
  for (size_t level = 0; level < levels; level++) {
    if (values[level] < 1 || values[level] > static_cast<int64_t>(widest)) {
      return failure(api, "%s: %s has %lld at level %zu, wanted 1 to %zu", op, name,
                     static_cast<long long>(values[level]), level, widest);
    }
    widths[level] = static_cast<size_t>(values[level]);
  }
  return nullptr;
}

ort::Status* LaneArrays::open(size_t input, size_t first, size_t count) {
  Shape shape;
  RETURN_IF_FAILED(operands_.input(input, &places_, &shape));
  if (shape.count() < static_cast<int64_t>(first + count + 1)) {
    return failure(operands_.api, "%s: places of %lld caches, wanted at least %zu", op_,
                   static_cast<long long>(shape.count() - 1), first + count);
  }
  places_ += first;
  count_ = count;
  for (size_t i = 0; i < count; i++) {
    if (places_[i] < 0 || places_[i + 1] < places_[i]) {
      return failure(operands_.api, "%s: cache %zu lies at %lld to %lld", op_, first + i,
                     static_cast<long long>(places_[i]), static_cast<long long>(places_[i + 1]));
    }
  }
  return nullptr;
}

ort::Status* LaneArrays::take(size_t input, float** caches) const {
  const float* array = nullptr;
  Shape shape;
  RETURN_IF_FAILED(operands_.input(input, &array, &shape));
  if (!array || shape.count() < places_[count_]) {
    return failure(operands_.api, "%s: a lane's array has %lld floats, wanted %lld", op_,
                   static_cast<long long>(shape.count()), static_cast<long long>(places_[count_]));
  }
  // The session's user hands the array in to be written.
  for (size_t i = 0; i < count_; i++) caches[i] = const_cast<float*>(array) + places_[i];
  return nullptr;
}

}  // namespace espalier

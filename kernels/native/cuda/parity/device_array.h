// Arrays on the device that show where they were written beyond their ends.
#pragma once

#include <cstdint>
#include <cstring>

#include "../../parity/checks.h"
#include "device.h"

namespace espalier::cuda {

template <typename T>
class DeviceArray {
 public:
  // Every byte is `fill`.
  explicit DeviceArray(size_t count, uint8_t fill = 0xff)
      : DeviceArray(Bytes{std::vector<uint8_t>(count * sizeof(T), fill)}) {}
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(bytesOf(values)) {}
  ~DeviceArray() { checkedDevice().release(bytes_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return reinterpret_cast<T*>(bytes_ + band); }

  // What is there, after a look at the ends.
  std::vector<T> read(const char* name) const {
    std::vector<uint8_t> whole(size_ + 2 * band);
    checkedDevice().toHost(whole.data(), bytes_, whole.size());
    bool intact = true;
    for (size_t i = 0; i < band; i++) intact = intact && whole[i] == mark && whole[whole.size() - 1 - i] == mark;
    check(intact, "%s was written beyond its %zu bytes", name, size_);
    std::vector<T> values(size_ / sizeof(T));
    if (size_ > 0) std::memcpy(values.data(), whole.data() + band, size_);
    return values;
  }

 private:
  struct Bytes {
    std::vector<uint8_t> values;
  };
  static Bytes bytesOf(const std::vector<T>& values) {
    const auto* first = reinterpret_cast<const uint8_t*>(values.data());
    return {std::vector<uint8_t>(first, first + values.size() * sizeof(T))};
  }
  explicit DeviceArray(const Bytes& bytes) : size_(bytes.values.size()) {
    std::vector<uint8_t> whole(size_ + 2 * band, mark);
    if (size_ > 0) std::memcpy(whole.data() + band, bytes.values.data(), size_);
    bytes_ = static_cast<uint8_t*>(checkedDevice().allocate(whole.size()));
    checkedDevice().toDevice(bytes_, whole.data(), whole.size());
  }

  static constexpr size_t band = 1024;
  static constexpr uint8_t mark = 0xa5;
  size_t size_;
  uint8_t* bytes_;
};

}  // namespace espalier::cuda

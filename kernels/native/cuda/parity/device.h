// Where checked kernels run: on the emulation (emulated_device.cpp) or on a device (real_device.cpp). The checks are the
// same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../parity/checks.h"
#include "../driver.h"

namespace espalier::cuda {

// What runs the kernels.
const char* deviceName();

// Runs a kernel and waits for it. Ends the program with a message if that fails.
void launchKernel(const char* kernel, Grid, unsigned threads, size_t sharedBytes, const void* parameters,
                  size_t parameterBytes);

void* allocateDevice(size_t bytes);  // aligned to 256
void freeDevice(void*);
void upload(void* to, const void* from, size_t bytes);
void download(void* to, const void* from, size_t bytes);

// Memory on the device that shows where it was written beyond its ends.
template <typename T>
class DeviceArray {
 public:
  // Every byte is `fill`.
  explicit DeviceArray(size_t count, uint8_t fill = 0xff) : count_(count) {
    bytes_ = static_cast<uint8_t*>(allocateDevice(count * sizeof(T) + 2 * band));
    std::vector<uint8_t> whole(count * sizeof(T) + 2 * band, mark);
    std::memset(whole.data() + band, fill, count * sizeof(T));
    upload(bytes_, whole.data(), whole.size());
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    upload(data(), values.data(), values.size() * sizeof(T));
  }
  ~DeviceArray() { freeDevice(bytes_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return reinterpret_cast<T*>(bytes_ + band); }
  size_t size() const { return count_; }

  // What is there, after a look at the ends.
  std::vector<T> read(const char* name) const {
    std::vector<uint8_t> whole(count_ * sizeof(T) + 2 * band);
    download(whole.data(), bytes_, whole.size());
    bool intact = true;
    for (size_t i = 0; i < band; i++) intact = intact && whole[i] == mark && whole[whole.size() - 1 - i] == mark;
    check(intact, "%s was written beyond its %zu elements", name, count_);
    std::vector<T> values(count_);
    std::memcpy(values.data(), whole.data() + band, count_ * sizeof(T));
    return values;
  }

 private:
  static constexpr size_t band = 1024;
  static constexpr uint8_t mark = 0xa5;
  size_t count_;
  uint8_t* bytes_;
};

}  // namespace espalier::cuda

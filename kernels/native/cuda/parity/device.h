// The device that kernels are checked on: lane by lane on the processor, or a real one. The checks see only this.
#pragma once

#include <cstddef>
#include <vector>

#include "../driver.h"

namespace espalier::cuda {

class CheckedDevice {
 public:
  virtual ~CheckedDevice() = default;
  virtual int multiprocessors() const = 0;
  // 90 for 9.0; here it is as good as another.
  virtual int computeCapability() const = 0;
  // Device memory aligned to 256 bytes.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void*) = 0;
  virtual void toDevice(void* device, const void* host, size_t bytes) = 0;
  // Waits for the kernels before it.
  virtual void toHost(void* host, const void* device, size_t bytes) = 0;
  // `parameters` is the kernel's one parameter.
  virtual void launch(const char* kernel, Grid, unsigned threads, size_t sharedBytes, const void* parameters,
                      size_t parameterBytes) = 0;
};

// The processor, or the first device: which of the two is linked decides.
CheckedDevice& checkedDevice();

// Device memory for the time of a check.
class DeviceMemory {
 public:
  explicit DeviceMemory(CheckedDevice& device) : device_(device) {}
  ~DeviceMemory() {
    for (void* block : blocks_) device_.release(block);
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  template <typename T>
  T* upload(const std::vector<T>& values) {
    void* block = device_.allocate(values.size() * sizeof(T));
    blocks_.push_back(block);
    device_.toDevice(block, values.data(), values.size() * sizeof(T));
    return static_cast<T*>(block);
  }
  template <typename T>
  void download(const T* from, std::vector<T>& values) {
    device_.toHost(values.data(), from, values.size() * sizeof(T));
  }

 private:
  CheckedDevice& device_;
  std::vector<void*> blocks_;
};

}  // namespace espalier::cuda

// The few entry points of NVIDIA's driver that operators need. It is opened when the first kernel is asked for: nothing
// is linked, and no header of CUDA is needed.
#pragma once

#include <cstddef>

namespace espalier::cuda {

struct Function;  // a loaded kernel
struct Stream;

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

struct Launch {
  const Function* function;
  Grid grid;
  unsigned threads;
  size_t sharedBytes = 0;  // dynamic
  // May begin before the kernel before it on the stream has ended: it waits inside, by `waitForPrevious`, and must have
  // been written so.
  bool early = false;
};

// What the device in use is.
struct Device {
  int computeCapability;  // 90 for 9.0
  int multiprocessors;
  size_t sharedBytesPerBlock;  // at most, after opting in
};

// All return null if they went well, else a message that stays.

// Loads the embedded kernels into the current context, or the first device's, once.
const char* openDevice(const Device** out);

// A kernel that is embedded, allowed to take so much dynamic shared memory.
const char* findFunction(const char* name, size_t sharedBytes, const Function** out);

// Memory of the device, aligned to 256 bytes, with a copy of what lies in the host's.
const char* upload(const void* host, size_t bytes, void** out);
void release(void*);

// `parameters` is the kernel's one parameter, copied by the call.
const char* launch(const Launch&, Stream*, const void* parameters);

}  // namespace espalier::cuda

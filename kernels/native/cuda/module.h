// The compiled kernels: an image for every source file and architecture.
#pragma once

namespace espalier::cuda {

// Ends with a null. Which of them are for the device in use, the driver finds out.
const void* const* embeddedImages();

}  // namespace espalier::cuda

// The compiled kernels: a fat binary for all architectures they were built for.
#pragma once

namespace espalier::cuda {

const void* embeddedKernels();

}  // namespace espalier::cuda

// The compiled kernels: a fat binary per file of kernels, each for all architectures that they were built for. Files
// are not linked with each other, since relocatable device code took more registers (attendFewRows128: 168 instead of
// 145 on sm_90, 255 instead of 166 on sm_87, where shuffles became calls too).
#pragma once

namespace espalier::cuda {

// The fat binary behind another, the first behind null, null behind the last.
const void* nextKernels(const void* before);

}  // namespace espalier::cuda

// PrefixMatMul: a linear layer of which every row uses a prefix (prefix_product.h), as an operator.
//
// Inputs: x float32 [rows, ...]; rows_up_to int64 [levels], absent where all rows take all chunks; the weight of a norm
// that comes first, or absent; a residual that is added, or absent; then, chunk by chunk, codes uint8, scales float16
// and, where `biases` says so, a bias float32. Chunks are constants. Attributes: cut (0 outputs, 1 gated, 2 inputs),
// groups, uncut, block_size, epsilon, and per chunk widths, levels, biases. Output: float32 [rows, outputs], or [rows,
// groups, widest] where outputs of several groups are cut.
#pragma once

#include "onnxruntime_abi.h"
#include "routines.h"

namespace espalier {

// The operator. Kernels made from now on use these routines.
const ort::CustomOp* prefixMatMul(const Routines&);

}  // namespace espalier

// PrefixMatMul: a linear layer of which every row uses a prefix (prefix_product.h), as an operator.
//
// Inputs: x float32 [rows, ...]; rows_up_to int64 [levels], absent where all rows take all chunks; the weight of a norm
// that comes first, or absent; a residual that is added, or absent; a constant uint8 [bytes], the file of the weights.
// Attributes: cut (0 outputs, 1 gated, 2 inputs), activation (0 none, 1 squared ReLU), uncut, block_size, epsilon, per
// axis groups, per chunk levels and biases, widths [chunks][axes], and places, the bytes of the file at which chunk by
// chunk the codes begin, the scales, float16, and, where `biases` says so, the bias, float32. Output: float32 [rows,
// outputs], or [rows, groups, widest] where the outputs are one axis of several groups.
#pragma once

#include "cpu_operator.h"

namespace espalier {

extern const OperatorKind prefixMatMul;

}  // namespace espalier

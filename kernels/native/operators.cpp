#include "operators.h"

#include "cached_attention.h"
#include "prefix_matmul.h"
#include "selective_scan.h"

namespace espalier {

const OperatorKind* const operatorKinds[] = {&prefixMatMul, &cachedAttention, &selectiveScan, nullptr};

}  // namespace espalier

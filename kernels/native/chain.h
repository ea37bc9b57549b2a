// Chain: operators that follow one another, as one node.
//
// The runtime calls a node, looks its inputs up and hands its loops to the threads: some microseconds of every
// operator, in which memory is not read. A chain does so once. Its parts run one behind another on the same threads.
//
// Inputs: whatever the parts take. Attributes: operand_counts, of each part; operands, part by part what its inputs
// are: i >= 0 the node's input i, -1 none, -2 - p the output of part p, an earlier one; and of part p, behind the
// prefix "p.", operator, its name, and its own attributes. Output: float32, that of the last part. All parts have as
// many rows.
#pragma once

#include "onnxruntime_abi.h"
#include "routines.h"

namespace espalier {

// The node's description. Kernels made from now on use these routines.
const ort::CustomOp* chain(const Routines&);

}  // namespace espalier

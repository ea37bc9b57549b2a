// An operator on the CPU as a node of its own.
#pragma once

#include "cpu_operator.h"

namespace espalier {

// The runtime hands the description back whenever it makes a kernel.
struct NodeDescription : ort::CustomOp {
  const OperatorKind* kind;
  const Routines* routines;
};

NodeDescription describeNode(const OperatorKind&, const Routines&);

}  // namespace espalier

// The operators on the CPU.
#pragma once

#include "cpu_operator.h"

namespace espalier {

// Ends with null.
extern const OperatorKind* const operatorKinds[];

}  // namespace espalier

// SelectiveScan: what stands between a Mamba-2 block's projections, over the states of all lanes (lane_scan.h), as an
// operator.
//
// Inputs: packed float32 [rows, columns], z and x of H heads, B and C of G groups and dt of H heads, for the rows of
// lane after lane; lane_rows int64 [lanes], 0 for an idle one; as constants at their full widths the convolution of x
// [H, P, k] and its bias [H, P], that of B and C [2G, N, k] and its bias [2G, N], the logarithm of -A [H], the bias of
// dt [H], D [H] or [H, P], the norm's weight [H, P]; then lane by lane its states: of the convolutions [1, k - 1, H P']
// and [1, k - 1, 2G N'], and of the recurrence [1, H, N', P']. Attributes: heads, channels and states of the packed
// rows, full_channels, full_states, groups, taps, conv_bias (whether the biases are there), least_delta,
// greatest_delta, epsilon. Outputs: float32 [rows, H, channels], zero behind a lane's P', then the states. Bind them to
// the memory of the inputs: then they are written in place. Of idle lanes nothing is read or written.
#pragma once

#include "onnxruntime_abi.h"
#include "routines.h"

namespace espalier {

// The operator. Kernels made from now on use these routines.
const ort::CustomOp* selectiveScan(const Routines&);

}  // namespace espalier

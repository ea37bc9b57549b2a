// SelectiveScan: what stands between a Mamba-2 block's projections, over the states of all lanes (lane_scan.h), as an
// operator.
//
// Inputs: packed float32 [rows, columns], z and x of H heads, B and C of G groups and dt of H heads, for the rows of
// lane after lane; lane_rows int64 [lanes], 0 for an idle one; lane_levels int64 [lanes]; cache_places int64
// (lane_arrays.h); as constants at their full widths the convolution of x [H, P, k] and its bias [H, P], that of B and
// C [2G, N, k] and its bias [2G, N], the logarithm of -A [H], the bias of dt [H], D [H] or [H, P], the norm's weight
// [H, P]; then the lanes' arrays, in which an operator has the states of the convolutions [1, k - 1, H P'] and [1, k -
// 1, 2G N'], and of the recurrence [1, H, N', P']. Attributes: heads, channels and states of the packed rows,
// full_channels, full_states, groups, taps, conv_bias (whether the biases are there), least_delta, greatest_delta,
// epsilon, channel_widths and state_widths (P' and N' of each level), first_cache. Output: float32 [rows, H, channels],
// zero behind a lane's P'. The arrays are written where they are; of idle lanes nothing is read or written.
#pragma once

#include "cpu_operator.h"

namespace espalier {

extern const OperatorKind selectiveScan;

}  // namespace espalier

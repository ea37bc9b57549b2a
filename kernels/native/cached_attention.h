// CachedAttention: causal attention over the caches of all lanes (lane_attention.h), as an operator.
//
// Inputs: packed float32 [rows, H + 2G, widest], the query, key and value heads of the rows of lane after lane;
// lane_rows int64 [lanes], 0 for an idle one; lane_levels int64 [lanes]; lane_lengths int32 [lanes], tokens with these
// rows; cache_places int64 (lane_arrays.h); the constants cosines and sines float32 [places in a sequence, frequencies]
// and pairs int64 [G, widest / 2], all three absent where nothing is turned; then the lanes' arrays. In them an
// operator has its keys and behind them its values, [1, G, capacity, width] each, in places of capacity tokens of the
// greatest width; the capacity is a multiple of 16. Attributes: query_heads, key_heads, widest, scale, turns (whether
// the three are there), widths (of each level), first_cache (of the keys). Output: float32 [rows, H, widest]. The
// arrays are extended where they are; of idle lanes nothing is read or written. Keys lie 16 tokens side by side,
// [G][capacity / 16][width][16].
#pragma once

#include "cpu_operator.h"

namespace espalier {

extern const OperatorKind cachedAttention;

}  // namespace espalier

// The operators for CUDA, in the domain `espalier.cuda`.
//
// Where a step's sequences stand is an input on the device, so that a captured graph serves any of them at any level:
// `lanes`, int32 [lanes, 8], a line per lane (first row, rows, length with these rows, level, slot), which `StepPlan`
// makes.
#pragma once

#include "../onnxruntime_abi.h"

namespace espalier::cuda {

// StepPlan(lane_rows i64, lane_levels i64, lane_lengths i32, lane_slots i64) → lanes, rows_up_to i64 [levels].
const ort::CustomOp* stepPlan();

// Embed(tokens i64 [rows], codes u8 [V, blocks, block_size / 2], scales f16 [V, blocks]) → f32 [rows, D].
const ort::CustomOp* embed();

// As the CPU's, see `../prefix_matmul.h`.
const ort::CustomOp* prefixMatMul();

// CachedAttention(packed f32 [rows, H + 2 G, widest], lanes, cosines f32 [rows, frequencies], sines, pairs i64 [G,
// widest / 2], keys f16 [slots, G, capacity, widest], values) → f32 [rows, H, widest], keys, values: in place.
const ort::CustomOp* cachedAttention();

// SelectiveScan(packed f32, lanes, the block's vectors as the CPU's takes them, [slots, …] states of the convolutions
// and of the recurrence, at full width) → f32 [rows, H, P], the states: in place.
const ort::CustomOp* selectiveScan();

// Likeliest(logits f32 [rows, V]) → the same, i64 [rows]: the greatest logit's token.
const ort::CustomOp* likeliest();

}  // namespace espalier::cuda

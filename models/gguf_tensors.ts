/** GGUF's names of the parts of a Llama-like layer, and Hugging Face's. */
const LAYER_PARTS: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

const OUTER: Readonly<Record<string, string>> = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
};

/** Hugging Face's name of a tensor of a GGUF file; a name that is not known stays as it is. */
export function huggingFaceName(ggufName: string): string {
  if (Object.hasOwn(OUTER, ggufName)) return OUTER[ggufName]!;
  const [, layer, part, kind] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(ggufName) ?? [];
  if (part === undefined || !Object.hasOwn(LAYER_PARTS, part)) return ggufName;
  return `model.layers.${layer}.${LAYER_PARTS[part]}.${kind}`;
}

/**
 * Puts the rows of a query or key projection back into Hugging Face's order, in place.
 *
 * Files of the architecture `llama` hold the two components that RoPE turns together in neighbouring rows, because ggml
 * rotates neighbours there: row `2i + j` of a head is row `i + j·K/2` in Hugging Face's order. Those of `qwen2` do not.
 *
 * @param weight `[heads·headDim, rowLength]`, row-major; a bias has rows of length 1.
 */
export function unpermuteRotary(weight: Float32Array, { heads, headDim }: { heads: number; headDim: number }): void {
  const headLength = weight.length / heads;
  const rowLength = headLength / headDim;
  const half = headDim / 2;
  for (let head = 0; head < heads; head++) {
    const rows = weight.subarray(head * headLength, (head + 1) * headLength);
    const permuted = rows.slice();
    for (let row = 0; row < headDim; row++) {
      const target = (row >> 1) + (row & 1) * half;
      rows.set(permuted.subarray(row * rowLength, (row + 1) * rowLength), target * rowLength);
    }
  }
}

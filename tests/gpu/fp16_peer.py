"""An FP16 model of a Llama shape on one GPU, as fast as PyTorch makes it; prints what it measured as JSON.

The peer of our engine on CUDA: the same shape with random float16 weights, one sequence. Decode is one CUDA graph,
replayed for every token. Per layer it launches ten kernels: cuBLAS or a kernel of this file for each of the four
products, whichever was faster here when it was tried, and fused kernels for what is between them. Prefill runs eagerly
and as a CUDA graph. With --transformers Hugging Face's own LlamaForCausalLM is measured too: static cache, decode as a
CUDA graph. One line of JSON each.

    python3 tests/gpu/fp16_peer.py --transformers

Needs PyTorch with Triton and a GPU. Without one, TRITON_INTERPRET=1 python3 tests/gpu/fp16_peer.py --check computes a
tiny shape on the CPU and compares it with a model in float32 that is written plainly.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

EPSILON = 1e-5
THETA = 500_000.0
SPLIT = 64  # cached tokens that one program of the decode attention reads


# --- kernels: activations are float16 in memory, sums are float32


@triton.jit
def add_norm_kernel(stream, delta, weight, out, width, epsilon, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """stream += delta (where there is one), out = RMS norm of stream; a program per row."""
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width
    x = tl.load(stream + row + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(delta + row + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(stream + row + at, x.to(tl.float16), mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(x * x) / width + epsilon)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + at, (x * scale * gain).to(tl.float16), mask=inside)


@triton.jit
def rope_append_kernel(
    packed, position, cosines, sines, queries, keys, values, capacity,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, HALF: tl.constexpr,
):
    """packed [rows, H + 2G, d]: rotates queries and keys, appends keys and values; a program per row and head."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    token = tl.load(position) + row
    at = tl.arange(0, HALF)
    source = packed + (row * (HEADS + 2 * GROUPS) + head) * 2 * HALF
    low = tl.load(source + at)
    high = tl.load(source + HALF + at)
    if head < HEADS + GROUPS:
        cosine = tl.load(cosines + token * HALF + at)
        sine = tl.load(sines + token * HALF + at)
        a = low.to(tl.float32)
        b = high.to(tl.float32)
        low = (a * cosine - b * sine).to(tl.float16)
        high = (b * cosine + a * sine).to(tl.float16)
    if head < HEADS:
        target = queries + (row * HEADS + head) * 2 * HALF
    elif head < HEADS + GROUPS:
        target = keys + ((head - HEADS) * capacity + token) * 2 * HALF
    else:
        target = values + ((head - HEADS - GROUPS) * capacity + token) * 2 * HALF
    tl.store(target + at, low)
    tl.store(target + HALF + at, high)


@triton.jit
def attend_kernel(
    queries, keys, values, position, sums, peaks, totals, capacity, scale,
    SHARE: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr, SPLIT: tl.constexpr,
):
    """One token's attention over `SPLIT` cached tokens, for the `SHARE` query heads of a key head; a program per both."""
    group = tl.program_id(0)
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    length = tl.load(position) + 1
    head = tl.arange(0, PADDED)
    at = tl.arange(0, WIDTH)
    token = split * SPLIT + tl.arange(0, SPLIT)
    real = head < SHARE
    target = (group * SHARE + head) * splits + split
    if split * SPLIT < length:
        query = tl.load(queries + (group * SHARE + head)[:, None] * WIDTH + at[None, :], mask=real[:, None], other=0.0)
        cached = (group * capacity + token)[:, None] * WIDTH + at[None, :]
        key = tl.load(keys + cached, mask=(token < length)[:, None], other=0.0)
        score = tl.dot(query, tl.trans(key)) * scale
        score = tl.where((token < length)[None, :], score, -float("inf"))
        peak = tl.max(score, 1)
        weight = tl.exp(score - peak[:, None])
        value = tl.load(values + cached, mask=(token < length)[:, None], other=0.0)
        tl.store(peaks + target, peak, mask=real)
        tl.store(totals + target, tl.sum(weight, 1), mask=real)
        mixed = tl.dot(weight.to(tl.float16), value)
        tl.store(sums + target[:, None] * WIDTH + at[None, :], mixed, mask=real[:, None])
    else:
        tl.store(peaks + target, tl.full((PADDED,), -float("inf"), tl.float32), mask=real)


@triton.jit
def combine_kernel(sums, peaks, totals, out, splits, PADDED: tl.constexpr, WIDTH: tl.constexpr):
    """Puts the splits of one head together; a program per head."""
    head = tl.program_id(0)
    split = tl.arange(0, PADDED)
    at = tl.arange(0, WIDTH)
    peak = tl.load(peaks + head * splits + split, mask=split < splits, other=-float("inf"))
    share = tl.exp(peak - tl.max(peak))
    used = peak > -float("inf")
    total = tl.sum(share * tl.load(totals + head * splits + split, mask=used, other=0.0))
    mixed = tl.load(sums + (head * splits + split)[:, None] * WIDTH + at[None, :], mask=used[:, None], other=0.0)
    tl.store(out + head * WIDTH + at, (tl.sum(mixed * share[:, None], 0) / total).to(tl.float16))


@triton.jit
def gated_kernel(gate_up, out, width, BLOCK: tl.constexpr):
    """out [rows, I] = silu(gate) · up of gate_up [rows, 2I]."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate / (1.0 + tl.exp(-gate)) * up).to(tl.float16), mask=inside)


@triton.jit
def vector_product_kernel(x, weight, out, inner, outer, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out [outer] = weight [outer, inner] · x [inner]; a program per `ROWS` outputs. `BLOCK` divides `inner`."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, inner, BLOCK):
        part = tl.load(x + start + at).to(tl.float32)
        tile = tl.load(weight + row[:, None] * inner + start + at[None, :], mask=(row < outer)[:, None], other=0.0)
        sums += tile.to(tl.float32) * part[None, :]
    tl.store(out + row, tl.sum(sums, 1).to(tl.float16), mask=row < outer)


# --- the model


@dataclass
class Shape:
    hidden: int
    layers: int
    heads: int
    groups: int
    width: int
    inner: int
    vocabulary: int


class Layer:
    def __init__(self, shape, matrix, device):
        mixed = (shape.heads + 2 * shape.groups) * shape.width
        self.before = torch.ones(shape.hidden, dtype=torch.float16, device=device)
        self.after = torch.ones(shape.hidden, dtype=torch.float16, device=device)
        self.qkv = matrix(mixed, shape.hidden)
        self.out = matrix(shape.hidden, shape.heads * shape.width)
        self.gate_up = matrix(2 * shape.inner, shape.hidden)
        self.down = matrix(shape.hidden, shape.inner)


class Engine:
    """One sequence. `token` [1] and `position` [1] lie on the device; every buffer is made once."""

    def __init__(self, shape, capacity, device):
        self.shape, self.device, self.capacity = shape, device, capacity
        random = torch.Generator(device=device).manual_seed(1)

        def matrix(rows, columns):
            values = torch.empty(rows, columns, dtype=torch.float16, device=device)
            return values.normal_(0.0, columns**-0.5, generator=random)

        def buffer(*sizes, dtype=torch.float16):
            return torch.zeros(sizes, dtype=dtype, device=device)

        self.embedding = matrix(shape.vocabulary, shape.hidden)
        self.layers = [Layer(shape, matrix, device) for _ in range(shape.layers)]
        self.norm = torch.ones(shape.hidden, dtype=torch.float16, device=device)
        self.head = matrix(shape.vocabulary, shape.hidden)
        self.keys = buffer(shape.layers, 1, shape.groups, capacity, shape.width)
        self.values = buffer(shape.layers, 1, shape.groups, capacity, shape.width)
        self.splits = triton.cdiv(capacity, SPLIT)
        self.sums = buffer(shape.heads, self.splits, shape.width, dtype=torch.float32)
        self.peaks = buffer(shape.heads, self.splits, dtype=torch.float32)
        self.totals = buffer(shape.heads, self.splits, dtype=torch.float32)
        self.token = buffer(1, dtype=torch.int64)
        self.position = buffer(1, dtype=torch.int64)
        frequencies = THETA ** (-torch.arange(0, shape.width, 2, dtype=torch.float64, device=device) / shape.width)
        angles = torch.arange(capacity, dtype=torch.float64, device=device)[:, None] * frequencies
        self.cosines, self.sines = angles.cos().float(), angles.sin().float()
        self.products = {name: F.linear for name in ("qkv", "out", "gate_up", "down", "head")}

    def weight_bytes(self):
        matrices = [self.embedding, self.head, self.norm]
        for layer in self.layers:
            matrices += vars(layer).values()
        return sum(matrix.nbytes for matrix in matrices)

    def add_norm(self, stream, delta, weight):
        rows, width = stream.shape
        out = torch.empty_like(stream)
        add_norm_kernel[(rows,)](
            stream, stream if delta is None else delta, weight, out, width, EPSILON,
            ADD=delta is not None, BLOCK=triton.next_power_of_2(width), num_warps=8,
        )
        return out

    def product(self, name, x, weight):
        return (self.products[name] if len(x) == 1 else F.linear)(x, weight)

    def attend(self, index, queries):
        """queries [rows, H, d], appended to the cache already. Many rows are a whole prompt."""
        shape, rows = self.shape, len(queries)
        keys, values = self.keys[index], self.values[index]
        if rows > 1:
            mixed = F.scaled_dot_product_attention(
                queries.transpose(0, 1)[None], keys[:, :, :rows], values[:, :, :rows], is_causal=True, enable_gqa=True
            )
            return mixed[0].transpose(0, 1).reshape(rows, -1)
        out = torch.empty(1, shape.heads * shape.width, dtype=torch.float16, device=self.device)
        share = shape.heads // shape.groups
        attend_kernel[(shape.groups, self.splits)](
            queries, keys, values, self.position, self.sums, self.peaks, self.totals, self.capacity, shape.width**-0.5,
            SHARE=share, PADDED=max(16, triton.next_power_of_2(share)), WIDTH=shape.width, SPLIT=SPLIT,
        )
        combine_kernel[(shape.heads,)](
            self.sums, self.peaks, self.totals, out, self.splits,
            PADDED=triton.next_power_of_2(self.splits), WIDTH=shape.width,
        )
        return out

    def logits(self, tokens):
        """tokens [rows] at `position` and behind it → logits [1, V] of the last."""
        shape, rows = self.shape, len(tokens)
        stream, delta = F.embedding(tokens, self.embedding), None
        for index, layer in enumerate(self.layers):
            packed = self.product("qkv", self.add_norm(stream, delta, layer.before), layer.qkv)
            queries = torch.empty(rows, shape.heads, shape.width, dtype=torch.float16, device=self.device)
            rope_append_kernel[(rows, shape.heads + 2 * shape.groups)](
                packed, self.position, self.cosines, self.sines, queries, self.keys[index], self.values[index],
                self.capacity, HEADS=shape.heads, GROUPS=shape.groups, HALF=shape.width // 2, num_warps=1,
            )
            delta = self.product("out", self.attend(index, queries), layer.out)
            gate_up = self.product("gate_up", self.add_norm(stream, delta, layer.after), layer.gate_up)
            gated = torch.empty(rows, shape.inner, dtype=torch.float16, device=self.device)
            gated_kernel[(rows, triton.cdiv(shape.inner, 1024))](gate_up, gated, shape.inner, BLOCK=1024)
            delta = self.product("down", gated, layer.down)
        last = self.add_norm(stream[-1:].contiguous(), delta[-1:].contiguous(), self.norm)
        return self.product("head", last, self.head)

    def prefill(self, prompt):
        self.position.zero_()
        self.token.copy_(self.logits(prompt).argmax(-1))
        self.position.add_(len(prompt))

    def step(self):
        self.token.copy_(self.logits(self.token).argmax(-1))
        self.position.add_(1)

    def choose_products(self):
        """For each matrix: cuBLAS, or the kernel above in some tiling, whichever reads fastest. → µs by candidate."""
        matrices = {name: [getattr(layer, name) for layer in self.layers] for name in ("qkv", "out", "gate_up", "down")}
        matrices["head"] = [self.head]
        report = {}
        for name, weights in matrices.items():
            outer, inner = weights[0].shape
            x = torch.randn(1, inner, dtype=torch.float16, device=self.device)
            candidates = {"cublas": F.linear}
            for rows, block, warps in ((1, 1024, 4), (2, 1024, 4), (4, 512, 4), (2, 2048, 8), (8, 512, 8)):
                if inner % block == 0:
                    candidates[f"{rows}x{block}"] = vector_product(rows, block, warps)
            times = {}
            for label, candidate in candidates.items():
                graph = capture(lambda: [candidate(x, weight) for weight in weights])
                times[label] = statistics.median(timed(graph.replay) for _ in range(5)) * 1e6 / len(weights)
            best = min(times, key=times.get)
            self.products[name] = candidates[best]
            report[name] = {"taken": best, **{label: round(value, 1) for label, value in times.items()}}
        return report


def vector_product(rows, block, warps):
    def product(x, weight):
        outer, inner = weight.shape
        out = torch.empty(1, outer, dtype=torch.float16, device=x.device)
        vector_product_kernel[(triton.cdiv(outer, rows),)](
            x, weight, out, inner, outer, ROWS=rows, BLOCK=block, num_warps=warps
        )
        return out

    return product


# --- measuring


def capture(run):
    """A CUDA graph of `run`, which is run before: kernels are compiled and workspaces made outside of it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
        run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def timed(run):
    """Seconds, until the device has done it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def first_token_ms(host_prompt, prompt, prefill, token, rounds, warm_ups):
    """From a prompt in the host's memory to the first token's number there."""

    def run():
        prompt.copy_(host_prompt, non_blocking=True)
        prefill()
        token.item()

    return 1e3 * statistics.median([timed(run) for _ in range(warm_ups + rounds)][warm_ups:])


def decode_ms(prefill, step, token, steps, rounds, warm_ups, read):
    """Per token behind the first; with `read`, the host waits for each token's number as a server does."""
    times = []
    for _ in range(warm_ups + rounds):
        prefill()

        def run():
            for _ in range(steps):
                step()
                if read:
                    token.item()

        times.append(timed(run) / steps)
    return 1e3 * statistics.median(times[warm_ups:])


def measured(host_prompt, prompt, prefills, step, token, options, weight_bytes, step_bytes):
    """What is printed of one engine; `prefills` are ways to do the same, of which the fastest counts."""
    rounds, warm_ups = options.rounds, options.warm_ups
    first = {
        name: first_token_ms(host_prompt, prompt, run, token, rounds, warm_ups) for name, run in prefills.items()
    }
    prefill = prefills[min(first, key=first.get)]
    steps = options.tokens - 1
    free = decode_ms(prefill, step, token, steps, rounds, warm_ups, read=False)
    read = decode_ms(prefill, step, token, steps, rounds, warm_ups, read=True)
    best = min(free, read)
    return {
        "ttft_ms": round(min(first.values()), 3),
        "ttft_ms_by_way": {name: round(value, 3) for name, value in first.items()},
        "decode_ms_per_token": round(best, 4),
        "decode_ms_per_token_when_each_is_read": round(read, 4),
        "tokens_per_s": round(1e3 / best, 2),
        "weight_bytes": weight_bytes,
        "weight_bytes_per_step": step_bytes,
        "gb_per_s": round(step_bytes / best / 1e6, 1),
    }


def measure_engine(shape, options, device):
    engine = Engine(shape, options.prompt + options.tokens, device)
    report = engine.choose_products()
    host_prompt = torch.randint(shape.vocabulary, (options.prompt,)).pin_memory()
    prompt = host_prompt.to(device)
    with_graph = capture(lambda: engine.prefill(prompt))
    engine.prefill(prompt)
    one_step = capture(engine.step)  # runs three steps, no more
    weight_bytes = engine.weight_bytes()
    results = measured(
        host_prompt, prompt, {"eager": lambda: engine.prefill(prompt), "cuda_graph": with_graph.replay},
        one_step.replay, engine.token, options, weight_bytes, weight_bytes - engine.embedding.nbytes,
    )
    return {**results, "products_us": report}


def measure_transformers(shape, options, device):
    from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

    config = LlamaConfig(
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups, head_dim=shape.width, intermediate_size=shape.inner,
        vocab_size=shape.vocabulary, rms_norm_eps=EPSILON, attn_implementation="sdpa",
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        max_position_embeddings=options.prompt + options.tokens,
    )
    torch.set_default_dtype(torch.float16)
    with torch.device(device):
        model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    cache = StaticCache(config=config, max_cache_len=options.prompt + options.tokens)
    host_prompt = torch.randint(shape.vocabulary, (1, options.prompt)).pin_memory()
    prompt = host_prompt.to(device)
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)
    position = torch.zeros(1, 1, dtype=torch.int64, device=device)

    def prefill():
        cache.reset()
        output = model(input_ids=prompt, past_key_values=cache, logits_to_keep=1)
        token.copy_(output.logits[:, -1:].argmax(-1))
        position.fill_(options.prompt)

    def step():
        output = model(input_ids=token, past_key_values=cache, position_ids=position)
        token.copy_(output.logits[:, -1:].argmax(-1))
        position.add_(1)

    prefill()
    one_step = capture(step)
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
    step_bytes = weight_bytes - model.model.embed_tokens.weight.nbytes
    return measured(
        host_prompt, prompt, {"eager": prefill}, one_step.replay, token, options, weight_bytes, step_bytes
    )


def copy_gb_per_s():
    """Read and written, of a large copy on the device: the ceiling of what reads memory."""
    source = torch.empty(1 << 32, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / statistics.median(timed(lambda: target.copy_(source)) for _ in range(5)) / 1e9


# --- the check without a GPU


def plain_logits(engine, tokens):
    """Logits [V] behind all of `tokens`, in float32 and without a cache."""
    shape, rows = engine.shape, len(tokens)

    def norm(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * weight.float()

    def turned(x):
        a, b = x.chunk(2, -1)
        cosine, sine = engine.cosines[:rows, None], engine.sines[:rows, None]
        return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)

    x = engine.embedding[tokens].float()
    hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1)
    for layer in engine.layers:
        packed = (norm(x, layer.before) @ layer.qkv.float().T).view(rows, -1, shape.width)
        q, k, v = packed.split([shape.heads, shape.groups, shape.groups], 1)
        q, k = turned(q), turned(k)
        k, v = (t.repeat_interleave(shape.heads // shape.groups, 1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * shape.width**-0.5
        mixed = torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)
        x = x + mixed.reshape(rows, -1) @ layer.out.float().T
        gate, up = (norm(x, layer.after) @ layer.gate_up.float().T).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ layer.down.float().T
    return norm(x[-1:], engine.norm)[0] @ engine.head.float().T


def check(shape, prompt_length, steps, device):
    """Prefill and decode against `plain_logits`; every product in both ways. → the largest relative error."""
    engine = Engine(shape, prompt_length + steps, device)
    worst = 0.0
    for product in (F.linear, vector_product(4, 32, 1)):
        engine.products = dict.fromkeys(engine.products, product)
        tokens = torch.randint(shape.vocabulary, (prompt_length + steps,), device=device)
        for length in range(prompt_length, prompt_length + steps + 1):
            begins = length == prompt_length
            engine.position.fill_(0 if begins else length - 1)
            got = engine.logits(tokens[:length] if begins else tokens[length - 1 : length])[0].float()
            wanted = plain_logits(engine, tokens[:length])
            worst = max(worst, ((got - wanted).norm() / wanted.norm()).item())
    return worst


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in {
        "hidden": 4096, "layers": 32, "heads": 32, "groups": 8, "width": 128, "inner": 14336, "vocabulary": 128256,
        "prompt": 512, "tokens": 128, "rounds": 10, "warm-ups": 3,
    }.items():
        arguments.add_argument(f"--{name}", type=int, default=value)
    arguments.add_argument("--transformers", action="store_true", help="measure Hugging Face's model too")
    arguments.add_argument("--check", action="store_true", help="compare a tiny shape with plain float32 only")
    options = arguments.parse_args()
    torch.manual_seed(1)
    with torch.inference_mode():
        if options.check:
            device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
            tiny = Shape(hidden=96, layers=2, heads=8, groups=2, width=32, inner=160, vocabulary=211)
            error = check(tiny, prompt_length=61, steps=9, device=device)
            print(json.dumps({"relative_error": error}))
            raise SystemExit(0 if error < 5e-3 else 1)
        shape = Shape(
            options.hidden, options.layers, options.heads, options.groups, options.width, options.inner,
            options.vocabulary,
        )
        machine = {
            "card": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_gb_per_s": round(copy_gb_per_s(), 1),
        }
        engines = {"engine": measure_engine}
        if options.transformers:
            engines["transformers"] = measure_transformers
        for name, measure in engines.items():
            torch.cuda.empty_cache()
            results = {**machine, "prompt": options.prompt, "tokens": options.tokens, **measure(shape, options, "cuda")}
            print(json.dumps({name: results}), flush=True)


main()

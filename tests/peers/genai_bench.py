"""Measures onnxruntime-genai through its Python interface, and prints tokens per second as JSON.

Called as: genai_bench.py MODEL WORKLOAD_JSON; `workload.ts` says what the numbers mean. A decode step includes the choice
of the most probable token, as every generation loop of this library does.
"""

import json
import statistics
import sys
import time

import numpy
import onnxruntime_genai as og

folder, workload = sys.argv[1], json.loads(sys.argv[2])
context, steps = workload["context"], workload["steps"]

settings = og.Config(folder)
session = {"intra_op_num_threads": workload["threads"]}
settings.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
model = og.Model(settings)
random = numpy.random.default_rng(1)


def generator(sequences, tokens, length):
    params = og.GeneratorParams(model)
    # No end token before `length`: random weights could draw one.
    params.set_search_options(batch_size=sequences, max_length=length, min_length=length, do_sample=False)
    prompt = random.integers(0, workload["vocabSize"], (sequences, tokens), dtype=numpy.int32)
    return og.Generator(model, params), prompt


def prefill_speed(tokens):
    run, prompt = generator(1, tokens, tokens + 1)
    start = time.perf_counter()
    run.append_tokens(prompt)
    return tokens / (time.perf_counter() - start)


def decode_speed(sequences):
    run, prompt = generator(sequences, context, context + steps + 2)
    run.append_tokens(prompt)
    run.generate_next_token()  # the first token's logits are the prompt's
    start = time.perf_counter()
    for _ in range(steps):
        run.generate_next_token()
    return sequences * steps / (time.perf_counter() - start)


prefill_speed(workload["prefillTokens"])
decode_speed(1)
one, eight = decode_speed(1), decode_speed(8)
prefill = statistics.median(prefill_speed(workload["prefillTokens"]) for _ in range(workload["prefills"]))
print(json.dumps({"one": one, "eight": eight, "prefill": prefill}))

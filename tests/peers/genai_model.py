"""Makes a random model of a given shape with onnxruntime-genai's own model builder, without the network.

Called as: genai_model.py CONFIG_JSON OUT. The configuration has Hugging Face's names. The builder wants a checkpoint to
quantize and a tokenizer to copy; both are made here, under a temporary folder beside OUT.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import tokenizers
import torch
import transformers

config, out = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])

with tempfile.TemporaryDirectory(dir=out.parent) as folder:
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    model.save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "</s>": config["eos_token_id"]}, "<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    del model
    # Int4 blocks of 32 with int8 activations; the head computes what generation needs, and shares the embedding's weights.
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", folder, "-o", str(out), "-p", "int4"]
    command += ["-e", "cpu", "-c", f"{folder}/cache", "--extra_options", "block_size=32", "accuracy_level=4"]
    command += ["prune_lm_head=true", "shared_embeddings=true", "hf_token=false"]
    subprocess.run(command, check=True)

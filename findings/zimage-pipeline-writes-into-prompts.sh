#!/usr/bin/env bash
# diffusers 0.42.1: ZImagePipeline writes its chat template into the list of prompts that it is given.
#
# Expected: a pipeline leaves its arguments as they are, so that a second call with the same list gives the same embeddings, as it
# does with one string. Observed: after a call the list holds the templated prompts; the next call applies the template to them
# again, and so on.
#
# Why it matters: whoever keeps a list of prompts and draws several seeds of it, as grids over checkpoints or generations do,
# draws every seed from another text, and pictures drift for a reason that is not the model.
#
# Output seen:
#   diffusers 0.42.1
#   tokens of the prompt in three calls with one string: [5, 5, 5], with one list: [5, 7, 9]
#   the list after the calls: ['user user user a red apple end end end']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1 transformers==5.24.0 accelerate==1.15.0
cat > "$folder/show.py" <<'PY'
import logging
import warnings

import diffusers
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
torch.manual_seed(0)
words = Tokenizer(WordLevel({"<pad>": 0, "<unk>": 1, "user": 2, "end": 3, "a": 4, "red": 5, "apple": 6}, unk_token="<unk>"))
words.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
tokenizer.chat_template = "{% for m in messages %}user {{ m['content'] }} end{% endfor %}"
encoder = Qwen3Model(Qwen3Config(
    vocab_size=7, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
    initializer_range=0.5,
)).eval()
pipe = ZImagePipeline(FlowMatchEulerDiscreteScheduler(), AutoencoderKL(), encoder, tokenizer, None)
prompts, text = ["a red apple"], "a red apple"
lists = [pipe.encode_prompt(prompts, "cpu", False)[0][0] for _ in range(3)]
texts = [pipe.encode_prompt(text, "cpu", False)[0][0] for _ in range(3)]
print(f"diffusers {diffusers.__version__}")
print(f"tokens of the prompt in three calls with one string: {[len(t) for t in texts]}, with one list: {[len(t) for t in lists]}")
print(f"the list after the calls: {prompts}")
assert len({len(t) for t in texts}) == 1, "the control has changed"
assert prompts == ["user user user a red apple end end end"] and [len(t) for t in lists] == [5, 7, 9], "the behaviour has changed"
PY
"$folder/venv/bin/python" "$folder/show.py"

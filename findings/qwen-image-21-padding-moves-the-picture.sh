#!/usr/bin/env bash
# diffusers 0.42.1: in Qwen-Image 2.1 the padding of a prompt changes the picture, although a mask excludes it.
#
# QwenImage21Transformer2DModel puts text and picture into one sequence. Padded text tokens are masked in attention, but the rotary
# positions of the picture begin behind all text tokens, padding included. Expected: a prompt gives the same prediction with and
# without masked padding behind it, as in Qwen-Image. Observed: the prediction changes.
#
# Why it matters: a batch of prompts is padded to its longest one, so the picture of a prompt and a seed depends on which prompts
# are drawn beside it, and samples cannot be drawn again one by one. A training script that pads captions trains on other
# positions than a pipeline that is called with one prompt.
#
# Output seen:
#   diffusers 0.42.1
#   a prompt of 5 tokens with 6 masked ones behind changes the prediction of Qwen-Image by 0%, of Qwen-Image 2.1 by 17%
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
from diffusers import QwenImage21Transformer2DModel, QwenImageTransformer2DModel

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
torch.manual_seed(0)
TOKENS, PADDING, SIDE = 5, 6, 4
states = torch.randn(1, TOKENS, 8)
padded = torch.cat([states, torch.zeros(1, PADDING, 8)], dim=1)
mask = torch.arange(TOKENS + PADDING)[None] < TOKENS
size = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (8, 4, 4)}


@torch.no_grad()
def change(network, picture, slots):
    """Relative change of the prediction for the picture when the prompt is padded, with the padding masked."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    out = []
    for text, valid in ((states, None), (padded, mask)):
        more = {}
        if slots:  # one slot stands for 2 x 2 tokens of the picture
            is_picture = torch.zeros(1, text.shape[1] + SIDE * SIDE // 4, dtype=torch.bool)
            is_picture[:, text.shape[1] :] = True
            more["img_mask"] = is_picture
        answer = network(
            hidden_states=picture, encoder_hidden_states=text, encoder_hidden_states_mask=valid,
            timestep=torch.tensor([0.5]), img_shapes=[[(1, SIDE, SIDE)]], return_dict=False, **more,
        )[0]
        out.append(answer[:, -SIDE * SIDE :])
    return float((out[0] - out[1]).norm() / out[0].norm())


older = change(QwenImageTransformer2DModel(in_channels=4, out_channels=4, joint_attention_dim=8, **size).eval(), torch.randn(1, SIDE * SIDE, 4), False)
newer = change(QwenImage21Transformer2DModel(in_channels=4, out_channels=4, context_in_dim=8, **size).eval(), torch.randn(1, SIDE * SIDE, 4), True)
print(f"diffusers {diffusers.__version__}")
print(f"a prompt of {TOKENS} tokens with {PADDING} masked ones behind changes the prediction of Qwen-Image by {older:.0%}, of Qwen-Image 2.1 by {newer:.0%}")
assert older < 1e-3, "the control has changed"
assert newer > 0.05, "padding has no influence any more"
PY
"$folder/venv/bin/python" "$folder/show.py"

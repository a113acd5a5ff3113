#!/usr/bin/env bash
# diffusers 0.42.1: ChromaPipeline's mask does not exclude the padding of the prompt.
#
# A comment in `_get_t5_prompt_embeds` says that all padding tokens except the first one must be masked out in the transformer. The
# mask is 1 for tokens that count and 0 for others, in the float type of the embeddings. Attention adds a float mask to its logits,
# so padding has a logit that is smaller by 1, not minus infinity. Expected: what stands in masked tokens has no influence.
# Observed: it has, and none with the same mask as bool, which the pipeline accepts with `prompt_attention_mask`.
#
# Why it matters: T5 states of up to 512 padding tokens take part in every picture. A training script that masks with bool trains
# another network than the one that the pipeline samples from.
#
# Output seen:
#   diffusers 0.42.1
#   other embeddings in masked tokens change the latents by 6% with a float mask and by 0% with a bool mask
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
from diffusers import AutoencoderKL, ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
torch.manual_seed(0)
network = ChromaTransformer2DModel(
    patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1, approximator_num_channels=16,
).eval()
vae = AutoencoderKL(
    block_out_channels=(4,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), latent_channels=1, norm_num_groups=2,
    use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0, scaling_factor=1.0,
)
with torch.no_grad():
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
pipe = ChromaPipeline(FlowMatchEulerDiscreteScheduler(), vae, None, None, network)
pipe.set_progress_bar_config(disable=True)
states = torch.randn(1, 8, 32)
other = torch.cat([states[:, :4], torch.randn(1, 4, 32)], dim=1)  # the same in the four tokens that the mask keeps


def picture(embeds, mask):
    return pipe(
        prompt_embeds=embeds, prompt_attention_mask=mask, guidance_scale=1.0, height=8, width=8, num_inference_steps=2,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    ).images


keep = (torch.arange(8)[None] < 4)
apart = {}
for kind in (torch.float32, torch.bool):
    one, two = picture(states, keep.to(kind)), picture(other, keep.to(kind))
    apart[kind] = float((one - two).norm() / one.norm())
print(f"diffusers {diffusers.__version__}")
print(f"other embeddings in masked tokens change the latents by {apart[torch.float32]:.0%} with a float mask and by {apart[torch.bool]:.0%} with a bool mask")
assert apart[torch.bool] < 1e-4, "the control has changed"
assert apart[torch.float32] > 0.02, "the mask excludes padding now"
PY
"$folder/venv/bin/python" "$folder/show.py"

#!/usr/bin/env bash
# diffusers 0.42.1, peft 0.21.2: a LoRA on attention layers and on a convolution loses its attention layers when it is
# loaded, if it was saved as the official training scripts do it.
#
# `convert_state_dict_to_diffusers` uses its own names (`to_k.lora.down.weight`) for attention layers and leaves all other
# layers under peft's names (`conv_in.lora_A.weight`). `save_lora_weights` writes both kinds into one file.
# `load_lora_weights` treats the file as one with peft's names and reads only the layers with such names. Expected: every
# layer that was saved is loaded. Observed: the attention layers are missing. There is no error, only a warning of peft
# about "an inconsistency".
#
# Why it matters: if a convolution is added to `target_modules`, users of the file do not get all trained layers. If all
# layers are saved under peft's names (without the conversion), all of them are loaded.
#
# Output seen:
#   diffusers 0.42.1, peft 0.21.2
#   saved 18 tensors, loaded 2; under peft's names loaded 18
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0
cat > "$folder/show.py" <<'PY'
import logging
import sys
import warnings

import diffusers
import peft
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)


def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=8, attention_head_dim=2, norm_num_groups=2,
    )


trained = unet()
settings = peft.LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=["conv_in", "to_k"])
trained.add_adapter(settings)
layers = get_peft_model_state_dict(trained)


def loaded(state, folder):
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state, unet_lora_adapter_metadata=settings.to_dict())
    fresh = unet()
    state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(folder, return_lora_metadata=True)
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, fresh, adapter_name="default", metadata=metadata)
    return get_peft_model_state_dict(fresh)


converted = loaded(convert_state_dict_to_diffusers(layers), sys.argv[1] + "/converted")
plain = loaded(layers, sys.argv[1] + "/plain")
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}")
print(f"saved {len(layers)} tensors, loaded {len(converted)}; under peft's names loaded {len(plain)}")
assert len(layers) == 18 and len(plain) == 18, "the control has changed"
assert len(converted) == 2 and all("conv_in" in name for name in converted), "the behaviour has changed"
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder"

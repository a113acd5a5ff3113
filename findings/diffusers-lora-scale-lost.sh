#!/usr/bin/env bash
# diffusers 0.42.1 with peft 0.21.2: save_lora_weights does not save lora_alpha; a LoRA trained at scale 4 is loaded at
# scale 1.
#
# The training scripts call save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet)). This writes the
# matrices, but not the rank and not alpha. Loading then sets alpha = rank. Expected: the loaded adapter acts as in
# training. Observed: if lora_alpha differs from the rank, it acts too weakly or too strongly, by the factor alpha / rank.
# Neither side gives a warning. The optional argument unet_lora_adapter_metadata, filled from unet.peft_config, keeps the
# scale.
#
# Why it matters: the samples that are measured are not those of the trained model. Users then find by trial that they need
# another strength.
#
# Output seen:
#   diffusers 0.42.1 peft 0.21.2
#   saved plain     rank 4, alpha 4 (trained with 4, 16); effect is 0.24 of that in training
#   saved metadata  rank 4, alpha 16 (trained with 4, 16); effect is 1.00 of that in training
set -euo pipefail
export HF_HUB_OFFLINE=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.14.1 diffusers==0.42.1 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import diffusers
import peft
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin as Mixin
from peft import LoraConfig, get_peft_model_state_dict

def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",)).eval()

@torch.no_grad()
def output(net):
    draw = torch.Generator().manual_seed(1)
    return net(torch.randn(2, 4, 8, 8, generator=draw), 500, torch.randn(2, 5, 8, generator=draw)).sample

def loaded(folder):
    net = unet()
    weights, alphas, metadata = Mixin.lora_state_dict(folder, return_lora_metadata=True)
    Mixin.load_lora_into_unet(weights, network_alphas=alphas, unet=net, metadata=metadata)
    return net

print("diffusers", diffusers.__version__, "peft", peft.__version__)
trained = unet()
trained.add_adapter(LoraConfig(r=4, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
for name, weight in trained.named_parameters():
    if "lora_" in name:
        weight.data *= 0.3  # so small that the effect is proportional to the scale
change = output(trained) - output(unet())
layers = get_peft_model_state_dict(trained)
Mixin.save_lora_weights("plain", unet_lora_layers=layers)
settings = trained.peft_config["default"].to_dict()
settings["target_modules"] = sorted(settings["target_modules"])
Mixin.save_lora_weights("metadata", unet_lora_layers=layers, unet_lora_adapter_metadata=settings)
for folder in ("plain", "metadata"):
    net = loaded(folder)
    config = next(iter(net.peft_config.values()))
    share = ((output(net) - output(unet())).norm() / change.norm()).item()
    print(f"saved {folder:<9} rank {config.r}, alpha {config.lora_alpha} (trained with 4, 16); effect is {share:.2f} of that in training")
    if folder == "plain":
        assert config.lora_alpha == config.r == 4 and 0.15 < share < 0.4, "the scale is kept now"
    else:
        assert config.lora_alpha == 16 and abs(share - 1) < 1e-3
EOF

"""The estimate of `difflab plan --gpu` beside the measured memory of a training pass on a CPU.

    python benchmarks/memory_estimate.py [PART OF A SETTING'S NAME]

A random Stable Diffusion 3 with a transformer of 171 million parameters makes one pass per setting, each in a process
of its own. A pass is its activations and gradients, without weights, in MiB: `estimated` by fake tensors, `counted` over the
tensors of a real pass, `measured` as the growth of the process's peak memory (VmHWM) beyond its memory with the weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "full, float32": {},
    "full, float32, gradient_checkpointing": {"train": {"gradient_checkpointing": True}},
    "full, bf16": {"train": {"precision": "bf16"}},
    "lora_rank=16, float32": {"model": {"lora_rank": 16}},
    "lora_rank=16, int8, float32": {"model": {"lora_rank": 16, "quantize": "int8"}},
}


def make(folder: Path) -> None:
    import tiny
    import torch
    from diffusers import SD3Transformer2DModel

    tiny.make("sd3", folder)
    torch.manual_seed(0)
    width = json.loads((folder / "transformer" / "config.json").read_text())
    SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, out_channels=4, num_layers=8, attention_head_dim=64,
        num_attention_heads=12, caption_projection_dim=768, pos_embed_max_size=64,
        joint_attention_dim=width["joint_attention_dim"], pooled_projection_dim=width["pooled_projection_dim"],
    ).save_pretrained(folder / "transformer")  # fmt: skip


def measure(folder: Path, changes: dict) -> None:
    import ctypes
    import gc

    import tiny
    import torch

    from difflab.core.memory import peak_memory
    from difflab.core.tensor_bytes import TensorBytes
    from difflab.loop import gpu_memory, passes

    sections = {"data": {"image_size": 128}, **changes}
    sections["train"] = {"batch_size": 4, **sections.get("train", {})}
    config = tiny.config("sd3", folder, **sections)
    estimate = next(stage for stage in gpu_memory.stages(config) if stage.stage == "train")
    model = gpu_memory.model_of(config)
    model.initialise(0)
    model.prepare_training(config.train, "cpu")
    model.net.train()
    work = passes.training_pass(model, config.train, "cpu")
    if config.train.precision == "bf16":
        passes.attention = lambda *_: torch.nn.attention.sdpa_kernel(
            torch.nn.attention.SDPBackend.FLASH_ATTENTION
        )
    with TensorBytes() as count:
        work(4)
    counted = count.peak
    model.net.zero_grad(set_to_none=True)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the first pass has freed goes back to the system
    start = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
    with peak_memory(torch.device("cpu")) as peak:
        work(4)
    weights = gpu_memory.bytes_of(model.net)
    numbers = (
        weights,
        estimate.weights,
        estimate.gradients + estimate.activations,
        counted - weights,
        peak["peak_gb"] * 1e9 - start,
    )
    print("RESULT", *(round(number / 2**20) for number in numbers))


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        make(Path(home) / "sd3")
        print("| setting | weights | estimated weights | estimated pass | counted pass | measured pass |")
        wanted = sys.argv[1] if len(sys.argv) > 1 else ""
        for name, changes in SETTINGS.items():
            if wanted not in name:
                continue
            command = [sys.executable, "-W", "ignore", __file__, home + "/sd3", json.dumps(changes)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print("|", name, "|", " | ".join(out.split("RESULT")[1].split()), "|", flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
    if len(sys.argv) == 3:
        measure(Path(sys.argv[1]), json.loads(sys.argv[2]))
    else:
        main()

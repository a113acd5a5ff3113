"""The extractor `fitted`: a small CNN trained on the run's real train set, for images that no published
network knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from difflab.core.errors import MeasureError
from difflab.core.files import write_tensors
from difflab.core.hashing import sha256_of
from difflab.features.extractor import Extractor, ready


class LeNet(nn.Module):
    """Two convolutions and a 64-d layer, similar to the LeNet whose features MAD and Gillman et al. use on
    MNIST.
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, 64)
        self.out = nn.Linear(64, n_classes)

    def features(self, images_NCHW: Tensor) -> Tensor:
        # Above 32 pixels a side: means over 2 x 2, to train in seconds.
        shrink = math.ceil(max(images_NCHW.shape[2:]) / 32)
        x = F.avg_pool2d(images_NCHW.float() / 127.5 - 1, shrink)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.adaptive_avg_pool2d(F.relu(self.conv2(x)), 4)
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.out(self.features(images_NCHW))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread. Sums over several threads round differently on other machines."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fit_extractor(images: Tensor, labels: Tensor, n_classes: int, path: Path, seed: int) -> Extractor:
    """Train the `fitted` extractor on real train images uint8 [n, H, W, C] (8 to 64 pixels a side) and write
    it to `path`.

    A fifth of the images, drawn with `seed`, is not trained on. The accuracy on these is written into the
    file and the recipe. The same arguments give the same bits on the same machine: it trains on one
    thread, with its own generators. Raises MeasureError for other sizes, missing classes or a training
    that diverges.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise MeasureError(
            f"the fitted extractor trains on uint8 images [n, H, W, 1 or 3], got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    n, height, width, channels = images.shape
    if min(height, width) < 8 or max(height, width) > 64:
        raise MeasureError(
            f"the fitted extractor is made for 8 to 64 pixels a side, got {height}x{width}: use "
            "efficientnet-lite0 or pixels"
        )
    labels = labels.long().cpu()
    if (
        labels.shape != (n,)
        or n < 20
        or len(labels.unique()) < 2
        or int(labels.min()) < 0
        or int(labels.max()) >= n_classes
    ):
        raise MeasureError(
            f"the fitted extractor needs at least 20 images with labels 0 to {n_classes - 1} of at least 2 "
            "classes; use pixels instead"
        )
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=draw)
    kept, held_out = order[n // 5 :], order[: n // 5]
    images_NCHW = images.cpu().permute(0, 3, 1, 2).contiguous()
    with one_thread():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = LeNet(channels, n_classes)
        _train(network, images_NCHW[kept], labels[kept], draw)
        with torch.no_grad():
            seen = torch.cat([network(batch).argmax(1) for batch in images_NCHW[held_out].split(256)])
    recipe = {
        "channels": channels,
        "n_classes": n_classes,
        "n_train": len(kept),
        "seed": seed,
        "held_out_accuracy": round(float((seen == labels[held_out]).double().mean()), 4),
    }
    write_tensors(path, network.state_dict(), {"recipe": json.dumps(recipe)})
    return read_fitted(path)


def _train(
    network: LeNet,
    images_NCHW: Tensor,
    labels: Tensor,
    draw: torch.Generator,
    steps: int = 400,
    batch: int = 64,
) -> None:
    """AdamW with a one-cycle learning rate, for a fixed number of steps whatever n is."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(labels), (batch,), generator=draw)
        loss = F.cross_entropy(network(images_NCHW[rows]), labels[rows])
        if not torch.isfinite(loss):
            raise MeasureError(
                "training the fitted extractor diverged (loss is not finite); use pixels instead"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def read_fitted(path: Path | None, device: str | torch.device = "cpu") -> Extractor:
    """The extractor in a file that `fit_extractor` wrote. Raises MeasureError where there is none."""
    if path is None:
        raise MeasureError(
            "the extractor 'fitted' needs the file that fit_extractor wrote; measure a labelled real set "
            "first, or use pixels"
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            state = {name: file.get_tensor(name) for name in names}
            recipe = json.loads(file.metadata()["recipe"])
        with torch.random.fork_rng(devices=[]):  # a network draws initial weights before it loads its own
            network = LeNet(recipe["channels"], recipe["n_classes"])
        network.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise MeasureError(
            f"cannot read a fitted extractor from {path}: {error}; delete it and measure again to refit it"
        ) from error
    network = ready(network, device)

    def encode(images: Tensor) -> Tensor:
        if images.shape[1] != recipe["channels"]:
            raise MeasureError(
                f"the fitted extractor was trained on {recipe['channels']}-channel images, got "
                f"{images.shape[1]} channels"
            )
        return network.features(images)

    details = {
        "input": "own size",
        "resize": "none to 32 px, 2x2 means above",
        "values": "[-1, 1]",
        "dtype": "float32",
        "sha256": sha256_of(state),
        **recipe,
    }
    return Extractor("fitted", 64, details, encode, device, network)

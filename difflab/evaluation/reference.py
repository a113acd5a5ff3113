"""Statistics of a set of images that are made once and read often: mean and covariance of its features.

Files that `write_reference` writes:

    .safetensors   mu, sigma, perhaps feats; the recipe as metadata
    .npz           the same, with the recipe as text. pytorch-fid and clean-fid read its mu and sigma

Files of other packages, .npz with mu and sigma (pytorch-fid, clean-fid, ADM) or feats (clean-fid's KID), hold
no recipe. They are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difflab.core.errors import MeasureError, reading
from difflab.core.files import atomic, existing, write_tensors
from difflab.metrics.scatter import scatter

SUFFIXES = (".safetensors", ".npz")
AGAIN = "make it again with: difflab reference DIR --out FILE"


@dataclass(frozen=True)
class Reference:
    """What a published measure needs to know of the real images.

    Attributes:
        mean: float64 [d].
        covariance: float64 [d, d], unbiased.
        count: number of images; None = the file does not say.
        recipe: network, weights and resize of the features; None = the file does not say.
        images: hash of the images; "" = the file does not say.
        features: float32 [n, d] for measures that need single images; None = only the moments are known.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None
    recipe: Mapping[str, Any] | None = None
    images: str = ""
    features: Tensor | None = None


def moments(features_ND: Tensor, block: int = 1024) -> tuple[Tensor, Tensor]:
    """Mean [d] and unbiased covariance [d, d] of features [n, d], float64, read `block` rows at a time.

    Raises MeasureError for fewer than 2 rows.

    >>> moments(torch.tensor([[0.0], [2.0]]))
    (tensor([1.], dtype=torch.float64), tensor([[2.]], dtype=torch.float64))
    """
    n = len(features_ND)
    if n < 2:
        raise MeasureError(f"a covariance needs at least 2 images, got {n}")
    mean = features_ND.mean(0, dtype=torch.float64)
    lower = scatter(part.double() - mean for part in features_ND.split(block)).tril()
    return mean, (lower + lower.tril(-1).T) / (n - 1)


def write_reference(path: Path, reference: Reference) -> None:
    """Write statistics with their recipe as .safetensors or .npz.

    Raises MeasureError for another suffix.
    """
    check_suffix(path)
    tensors = {"mu": reference.mean, "sigma": reference.covariance}
    if reference.features is not None:
        tensors["feats"] = reference.features
    about = json.dumps({"n": reference.count, "images": reference.images, "recipe": reference.recipe})
    if path.suffix == ".safetensors":
        write_tensors(path, tensors, {"difflab_reference": about})
        return
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, difflab_reference=np.array(about), **arrays)  # type: ignore[arg-type]


def check_suffix(path: Path) -> None:
    """Raise MeasureError unless statistics can be written to a file of this name."""
    if path.suffix not in SUFFIXES:
        raise MeasureError(f"{path}: statistics are written as {' or '.join(SUFFIXES)}; give such a name")


def read_reference(path: str | Path) -> Reference:
    """Read statistics of difflab, pytorch-fid, clean-fid or ADM.

    Raises DataError for a missing file, MeasureError for one that holds no statistics.
    """
    path = existing(Path(path), "reference")
    with reading(path, MeasureError, AGAIN):
        if path.suffix == ".safetensors":
            arrays, about = _of_safetensors(path)
        else:
            arrays, about = _of_npz(path)
        known = json.loads(about) if about else {}
    features = None
    if "feats" in arrays:
        features = arrays["feats"].float()
    if features is not None and features.ndim == 2 and not {"mu", "sigma"} <= set(arrays):
        arrays["mu"], arrays["sigma"] = moments(features)
    if not {"mu", "sigma"} <= set(arrays):
        held = ", ".join(arrays) or "nothing"
        raise MeasureError(f"{path} holds {held}, where mu and sigma are needed; {AGAIN}")
    mean, covariance = arrays["mu"].double(), arrays["sigma"].double()
    d = mean.numel()
    if mean.ndim != 1 or covariance.shape != (d, d) or (features is not None and features.shape[1:] != (d,)):
        shapes = f"mu {list(mean.shape)} and sigma {list(covariance.shape)}"
        raise MeasureError(f"{path}: {shapes} do not fit, [d] and [d, d] are needed; {AGAIN}")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise MeasureError(f"{path}: mu or sigma hold values that are no finite numbers; {AGAIN}")
    count = known.get("n") if features is None else len(features)
    return Reference(mean, covariance, count, known.get("recipe"), known.get("images", ""), features)


def holds_statistics(what: Any) -> bool:
    """Whether a side of a comparison is a file of statistics: .safetensors, or .npz with mu and sigma.

    Reference batches of ADM hold statistics and images.
    """
    if not isinstance(what, (str, Path)) or not Path(what).expanduser().is_file():
        return False
    path = Path(what).expanduser()
    if path.suffix != ".npz":
        return path.suffix == ".safetensors"
    with reading(path):
        return {"mu", "sigma"} <= _names(path)


def holds_images(path: str | Path) -> bool:
    """Whether a file of statistics holds images too, as `arr_0`."""
    return Path(path).suffix == ".npz" and "arr_0" in _names(Path(path).expanduser())


def check_fit(reference: Reference, recipe: Mapping[str, Any], d: int, where: object) -> list[str]:
    """What to note about statistics that are used beside features [n, d] of `recipe`.

    Raises MeasureError, with the first field that differs, where the two are not comparable.
    """
    if len(reference.mean) != d:
        raise MeasureError(
            f"{where} has {len(reference.mean)} features, the network here has {d}; make the statistics with "
            "the same network"
        )
    if reference.recipe is None:
        return [
            f"{where} does not say which network and resize made it: only its number of features is checked"
        ]
    for key in {**recipe, **reference.recipe}:
        theirs, ours = reference.recipe.get(key), recipe.get(key)
        if theirs != ours:
            raise MeasureError(
                f"{where} was made with {key} '{_short(theirs)}', the images here are read with "
                f"'{_short(ours)}'; use the protocol and weights of the statistics, or make them again"
            )
    return []


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _names(path: Path) -> set[str]:
    with np.load(path, allow_pickle=False) as file:
        return set(file.files)


def _of_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name in ("mu", "sigma", "feats")]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}, (file.metadata() or {}).get(
            "difflab_reference", ""
        )


def _of_npz(path: Path) -> tuple[dict[str, Tensor], str]:
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in ("mu", "sigma", "feats") if name in file.files]
        about = str(file["difflab_reference"]) if "difflab_reference" in file.files else ""
        return {name: torch.from_numpy(np.asarray(file[name])) for name in names}, about

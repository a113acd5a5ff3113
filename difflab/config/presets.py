"""Presets: the configs that come with difflab. They are listed and found by name from any folder.

In a checkout they lie in ``configs/`` at the top. An installed package holds the same folder as
``difflab/configs``.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from difflab.core.errors import ConfigError
from difflab.core.suggest import closest

HOME = Path(__file__).parents[1] / "configs"
"""The folder of the presets. In a checkout it is a link to the folder at the top."""

GROUPS = {
    "": "chains, also of Stable Diffusion on your own images: difflab run NAME",
    "papers": "published protocols: difflab run NAME",
    "sweeps": "several arms and seeds: difflab sweep NAME",
    "claims": "published claims as experiments: difflab claims NAME (without claims/)",
    "assets": "how the bundled models were trained: difflab pretrain NAME",
}
"""Folder -> description of its files, and the command that runs them."""


def names() -> dict[str, Path]:
    """The name of every preset, such as ``digits`` or ``papers/mad-fs``, and its file."""
    presets = {}
    for group in GROUPS:
        for path in sorted((HOME / group).glob("*.yaml")):
            presets[f"{group}/{path.stem}" if group else path.stem] = path
    return presets


def find(config: str | Path, group: str = "") -> Path:
    """The file of a config: `config` itself if there is such a file, else the preset of that name.

    The name of a preset may include or omit ``configs/``, its group and ``.yaml``.

    Args:
        group: the group that is searched first for a name without a group.

    Raises:
        ConfigError: there is neither a file nor a preset of that name. The message suggests the nearest name.
    """
    path = Path(config)
    return path if path.is_file() else preset(path, group)


def preset(config: str | Path, group: str = "") -> Path:
    """The file of a preset, even if another file has that path; see `find`."""
    path = Path(config)
    presets = names()
    name = re.sub(r"^(\.\.?/)*(configs/)?", "", path.as_posix()).removesuffix(".yaml")
    if f"{group}/{name}" in presets:
        return presets[f"{group}/{name}"]
    if name in presets:
        return presets[name]
    of_that_stem = [other for other in presets if other.rpartition("/")[2] == name]
    if len(of_that_stem) == 1:
        return presets[of_that_stem[0]]
    beside = [file.as_posix() for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = closest(path.as_posix(), beside, cutoff=0.5) or closest(name, presets, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "difflab presets lists those that come with difflab"
    raise ConfigError(f"there is no config {path}; {hint}")


def about(path: Path) -> str:
    """A description of a preset in one line: its claim, or the first sentence of the comment at its
    beginning.
    """
    text = path.read_text(encoding="utf-8")
    if not text.startswith("#"):
        claim = (yaml.safe_load(text) or {}).get("claim", "")
        return " ".join(str(claim).split()).rstrip(".")
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    sentence = re.split(r"(?<=[^.].)\.(?= |$)", " ".join(comment), maxsplit=1)[0]
    return sentence.strip()

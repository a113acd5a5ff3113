"""The configs that come with difflab: found by name from any folder, listed, copied out.

In a checkout they lie in ``configs/`` at the top; a wheel holds the same folder as ``difflab/configs``.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from difflab.core.errors import ConfigError
from difflab.core.suggest import closest

HERE = Path(__file__).parent
GROUPS = {
    "": "chains and Stable Diffusion: difflab run NAME",
    "papers": "published protocols: difflab run NAME",
    "sweeps": "arms by seeds: difflab sweep NAME",
    "claims": "published claims: difflab claims NAME",
    "assets": "the bundled models: difflab pretrain NAME",
}


def home() -> Path:
    """The folder of the presets."""
    packaged = HERE / "configs"
    return packaged if packaged.is_dir() else HERE.parent / "configs"


def names() -> dict[str, Path]:
    """Name, such as ``digits`` or ``papers/mad-fs`` -> file, by group."""
    files = [(group, path) for group in GROUPS for path in sorted((home() / group).glob("*.yaml"))]
    return {f"{group}/{path.stem}" if group else path.stem: path for group, path in files}


def find(given: str | Path) -> Path:
    """The file of a config: `given` itself where there is one, else the preset of that name.

    A preset may be named with or without ``configs/``, its group and ``.yaml``. Raises ConfigError with the nearest name.
    """
    path = Path(given)
    if path.is_file():
        return path
    known = names()
    wanted = re.sub(r"^(\.\./)*(configs/)?", "", path.as_posix()).removesuffix(".yaml")
    by_last = [name for name in known if name.rpartition("/")[2] == wanted]
    if wanted in known or len(by_last) == 1:
        return known[wanted if wanted in known else by_last[0]]
    beside = [p.as_posix() for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = closest(path.as_posix(), beside, cutoff=0.5) or closest(wanted, known, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "difflab presets lists those that come with difflab"
    raise ConfigError(f"there is no config {path}; {hint}")


def about(path: Path) -> str:
    """What a preset is, in one line: its claim, or the first sentence of the comment that it begins with."""
    text = path.read_text(encoding="utf-8")
    if text.startswith("#"):
        comment = " ".join(line.lstrip("# ") for line in re.match(r"(#.*\n)*", text).group().splitlines())  # type: ignore[union-attr]
        return re.split(r"(?<=[^.].)\.(?= |$)", comment, maxsplit=1)[0].strip()
    claim = (yaml.safe_load(text) or {}).get("claim", "")
    return " ".join(str(claim).split()).rstrip(".")

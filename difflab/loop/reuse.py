"""What two runs have in common, and how one takes it over from the other instead of computing it again.

A stage's key is the hash of everything that determines its files: the fields that it reads, the policies that act in it, and
the keys of the stages before it. Two runs share a stage where its keys are equal, hence everything up to where they part. Files
are immutable once renamed into place, so they are shared as hard links (copies where the file system has none).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from difflab import config as configs
from difflab.config import Config
from difflab.core.hashing import digest
from difflab.loop.added_measures import FILE as ADDED
from difflab.runs.folder import STAGE, STAGES
from difflab.runs.run import Run
from difflab.runs.sizes import fresh_needed


def keys(config: Config) -> dict[Any, str]:
    """The key of the real set, under "real", and of every (generation, stage)."""
    flat = configs.flat(config)

    def fields(*names: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
        return {
            key: value for key, value in flat.items() if key.split(".")[0] in names and key not in without
        }

    # Of the exact families the reserve of fresh_real is drawn with the real set, for the whole chain.
    reserve = fresh_needed(config, config.data.train_size or 0) if config.exact else 0
    out: dict[Any, str] = {
        "real": digest(
            [fields("seed", "data", "ecosystem"), fields("model") if config.exact else config.text, reserve]
        )
    }
    before = out["real"]
    for t in range(config.generations + 1):
        own = {
            "mix": fields("regime") if t else {},
            "train": fields("model", "train", without=() if t else ("train.start_from",))
            | {"loss": config.measure.held_out_loss},
            "sample": fields("sample", "probe")
            | {"extractors": config.measure.extractors, "last": config.text and t == config.generations},
            "select": {"judge": config.measure.judge},
            "measure": fields("measure") | {"reserve": config.regime.name == "fresh_real"},
        }
        if t == 0 and config.train.start_from == "scratch" and config.text:
            own["train"]["train.start_from"] = "scratch"  # a pretrained base is not started from
        for stage in STAGES:
            acting = [
                [position, policy.model_dump(mode="json", exclude={"first", "last"})]
                for position, policy in enumerate(config.policies)
                if any(policy.acts(hook, t) for hook in STAGE[stage].hooks)
            ]
            out[t, stage] = digest([before, stage, own[stage], acting])
            before = before if stage == "measure" else out[t, stage]  # nothing is trained on numbers
    return out


def adopt(run: Run, donors: Iterable[Run]) -> list[tuple[int, str]]:
    """Take over what finished stages of `donors` have in common with `run`, which must be locked by the caller; returns the stages."""
    wanted, taken = keys(run.config), list[tuple[int, str]]()
    keyed = [(donor, keys(donor.config)) for donor in donors if donor.path != run.path]
    for donor, own in keyed:
        if own["real"] == wanted["real"] and (donor.path / "real" / "about.json").exists():
            _link(donor.path / "real", run.path / "real")
    for t in range(run.config.generations + 1):
        for stage in STAGES:
            if (run.path / "real" / "about.json").exists() and run.done(t, stage):
                continue
            source = next(
                (
                    d
                    for d, own in keyed
                    if own.get((t, stage)) == wanted[t, stage] and d.done(t, stage) and shared(d, stage)
                ),
                None,
            )
            if source is None:
                if stage != "measure":
                    return taken
                continue
            for name in STAGE[stage].files:
                if (source.gen(t) / name).exists():
                    _link(source.gen(t) / name, run.gen(t) / name)
            taken.append((t, stage))
    return taken


def shared(donor: Run, stage: str) -> bool:
    """Whether a stage of a run is what its config alone asks for: measures that were added to it later are its own."""
    return stage != "measure" or not (donor.path / ADDED).exists()


def _link(source: Path, target: Path) -> None:
    """Hard links of a file or of all files of a folder; what is there stays."""
    if source.is_dir():
        for path in sorted(
            source.rglob("*"), key=lambda p: p.name in ("about.json", "hash.json")
        ):  # what says "done" comes last
            if path.is_file() and ".tmp" not in path.name:
                _link(path, target / path.relative_to(source))
        return
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, temporary)
    temporary.rename(target)

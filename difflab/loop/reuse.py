"""Share the files of finished stages between runs.

The key of a stage is the hash of everything that determines its files: the config fields that it reads, the
policies that act in it, and the keys of the stages before it. Two runs share a stage if its keys are equal.
Files never change once they have their final name. They are therefore shared as hard links, or as copies on a
file system without links.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from difflab import config as configs
from difflab.config import Config
from difflab.core import fence
from difflab.core.hashing import digest
from difflab.loop.added_measures import FILE as ADDED
from difflab.runs.folder import STAGE, STAGES
from difflab.runs.run import Run
from difflab.runs.sizes import fresh_needed


def keys(config: Config) -> dict[Any, str]:
    """The key of the real set, under "real", and of every (generation, stage)."""
    fields_of: dict[str, dict[str, Any]] = {name: {} for name in ("real", "policies", *STAGES)}
    for field, value in configs.flat(config).items():
        for stage in configs.stages_of(field):
            fields_of[stage][field] = value
    # The real set of an exact family is drawn from the law of the family. It includes the unseen real records
    # that the whole chain needs.
    family: Any = config.text
    if config.exact:
        family = {key: value for key, value in fields_of["train"].items() if key.startswith("model.")}
    reserve = fresh_needed(config, config.data.train_size or 0) if config.exact else 0
    stage_keys: dict[Any, str] = {"real": digest([fields_of["real"], family, reserve])}
    before = stage_keys["real"]
    for t in range(config.generations + 1):
        for stage in STAGES:
            content = [
                before,
                stage,
                _settings(config, t, stage, fields_of[stage]),
                _acting(config, t, stage),
            ]
            stage_keys[t, stage] = digest(content)
            before = before if stage == "measure" else stage_keys[t, stage]  # no stage reads the measures
    return stage_keys


def _settings(config: Config, generation: int, stage: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of the config that a stage of one generation depends on."""
    if stage == "mix" and generation == 0:
        return {}  # training set 0 is the same in every regime
    if stage == "train" and generation == 0:
        start = fields["train.start_from"]
        # Without a pretrained base, generation 0 has new weights for every value of start_from. With a base,
        # only `scratch` starts from new weights.
        keep = config.text and start == "scratch"
        return {key: value for key, value in fields.items() if key != "train.start_from" or keep}
    if stage == "sample":
        return fields | {
            "last": config.text and generation == config.generations
        }  # no latents of the last samples are written
    if stage == "measure":
        return fields | {"reserve": config.regime.name == "fresh_real"}
    return fields


def _acting(config: Config, generation: int, stage: str) -> list[Any]:
    """The policies that act in a stage, each with its position in config.policies."""
    acting: list[Any] = []
    for position, policy in enumerate(config.policies):
        if any(policy.acts(hook, generation) for hook in STAGE[stage].hooks):
            acting.append([position, policy.model_dump(mode="json", exclude={"first", "last"})])
    return acting


def adopt(run: Run, donors: Iterable[Run]) -> list[tuple[int, str]]:
    """Link the finished stages of `donors` whose keys are equal to those of `run`. Return these stages.

    The caller must have claimed `run`.
    """
    wanted_keys = keys(run.config)
    linked: list[tuple[int, str]] = []
    keyed_donors = [(donor, keys(donor.config)) for donor in donors if donor.path != run.path]
    for other, donor_keys in keyed_donors:
        if donor_keys["real"] == wanted_keys["real"] and (other.path / "real" / "about.json").exists():
            _link(other.path / "real", run.path / "real")
    for t in range(run.config.generations + 1):
        for stage in STAGES:
            if (run.path / "real" / "about.json").exists() and run.done(t, stage):
                continue
            donor = _donor_of(t, stage, wanted_keys[t, stage], keyed_donors)
            if donor is None:
                if stage != "measure":
                    return linked
                continue
            for name in STAGE[stage].files:
                if (donor.gen(t) / name).exists():
                    _link(donor.gen(t) / name, run.gen(t) / name)
            linked.append((t, stage))
    return linked


def _donor_of(
    generation: int, stage: str, key: str, keyed_donors: list[tuple[Run, dict[Any, str]]]
) -> Run | None:
    """The first donor that has finished a stage with this key."""
    for donor, donor_keys in keyed_donors:
        equal = donor_keys.get((generation, stage)) == key
        if equal and donor.done(generation, stage) and shared(donor, stage):
            return donor
    return None


def shared(donor: Run, stage: str) -> bool:
    """Whether the files of a stage depend on the config only.

    They do not for the stage measure if measures were added to the run later.
    """
    return stage != "measure" or not (donor.path / ADDED).exists()


def _link(source: Path, target: Path) -> None:
    """Make hard links of a file, or of all files of a folder. Existing files are kept."""
    if source.is_dir():
        # The files whose existence says that a stage is done come last.
        for path in sorted(source.rglob("*"), key=lambda p: p.name in ("about.json", "hash.json")):
            if path.is_file() and ".tmp" not in path.name:
                _link(path, target / path.relative_to(source))
        return
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = fence.temporary_of(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, temporary)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
    fence.put(temporary, target)

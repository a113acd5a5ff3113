"""A sweep: the same chain under different settings (arms), each with several seeds, compared seed by seed.

A sweep is a YAML file with a base config, overrides for all arms, one mapping of overrides per arm, and
seeds. Every run is an ordinary run in ``OUT/ARM/seed-K``. Arms share every stage up to the point where their
settings differ (loop/reuse.py). The same command resumes a sweep. If a run fails, its reason is recorded and
the other runs go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from difflab import config as configs
from difflab.config import Spec, presets
from difflab.core.errors import ConfigError, DataError
from difflab.core.files import read_json, read_text, write_json
from difflab.runs.run import Run, open_run
from difflab.studies.compare_runs import Arm
from difflab.studies.executors.engine import Engine
from difflab.studies.executors.local import Local
from difflab.studies.job import Job, Record


class Sweep(Spec):
    """Arms x seeds of one base config."""

    name: str = Field(
        "sweep",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Folder under runs/ when --out is not given.",
    )
    base: str | dict[str, Any] = Field(
        description="Path of the config of a chain, relative to this file, or the config itself."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Dotted keys with values for every arm; {} = the base is not changed.",
    )
    seeds: int | list[int] = Field(
        3, description="Seeds 0 to n-1, or a list of seeds. Arms are compared seed by seed."
    )
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="Name of each arm with its dotted overrides. The other arms are compared with the first "
        "one.",
    )

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


def read(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Sweep, Path]:
    """A sweep file, and the folder that its base is relative to.

    Args:
        overrides: keys of the sweep itself, such as ``seeds=5``.
    """
    return configs.load(path, list(overrides), Sweep), Path(path).parent


def jobs(sweep: Sweep, folder: Path, out: Path) -> list[Job]:
    """All runs of a sweep.

    Every config is checked before any run starts. Raises ConfigError that names the arm.
    """
    if not sweep.seed_list or len(set(sweep.seed_list)) != len(sweep.seed_list):
        raise ConfigError(f"seeds: give at least one seed and each once, got {sweep.seeds}")
    raw = sweep.base if isinstance(sweep.base, dict) else _raw(base_file(folder, sweep.base))
    listed: list[Job] = []
    arm_by_folder: dict[str, str] = {}
    for arm, arm_overrides in sweep.arms.items():
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", arm).strip("-.") or "arm"
        if arm_by_folder.setdefault(name, arm) != arm:
            raise ConfigError(
                f"arms '{arm_by_folder[name]}' and '{arm}' would share the folder {name}; rename one"
            )
        for seed in sweep.seed_list:
            overrides = {**sweep.overrides, **arm_overrides, "seed": seed, "name": name}
            config = configs.parse(configs.merged(raw, overrides), f"arm '{arm}'")
            listed.append(Job(arm, seed, config, out / name / f"seed-{seed}"))
    return listed


def base_file(folder: Path, base: str) -> Path:
    """The file of a base config: relative to `folder`, else the preset of that name.

    A copy of a sweep in another folder finds its base as a preset.
    """
    path = folder / base
    if path.exists():
        return path
    try:
        return presets.preset(base)
    except ConfigError:
        return path


def _raw(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(read_text(path), configs.Loader)
    except DataError as error:
        raise ConfigError(f"base: cannot read {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"base: {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"base: {path} holds no mapping of keys")
    return raw


def run_sweep(
    sweep: Sweep,
    folder: Path,
    out: Path,
    engine: Engine | None = None,
    report: Callable[[Job], Any] | None = None,
    say: Any = print,
) -> list[Record]:
    """Run or resume all jobs and write ``OUT/sweep.json``, with the records of the jobs that have ended.

    Returns one record per job, in the order of the file.

    Args:
        folder: the path of the base is relative to this folder.
        engine: runs the jobs; None = this machine, see `executors.local.Local`.
        report: see `executors.engine.Engine.run`.
        say: is called with a sentence for every run that fails, and for every precision that was decided.
    """
    listed = jobs(sweep, folder, out)
    records: dict[tuple[str, int], Record] = {}
    out.mkdir(parents=True, exist_ok=True)
    # JSON keys are sorted when written, so the order of the arms is stored as a list.
    stored: dict[str, Any] = {"sweep": sweep.model_dump(mode="json"), "arms": list(sweep.arms)}
    stored["planned"] = [planned(job, out) for job in listed]
    write_json(out / "sweep.json", {**stored, "jobs": []})

    def note(job: Job, record: Record) -> None:
        records[job.arm, job.seed] = record
        in_order = [records[key] for key in ((j.arm, j.seed) for j in listed) if key in records]
        write_json(out / "sweep.json", {**stored, "jobs": in_order})
        if record["error"]:
            say(f"{job.arm}, seed {job.seed} FAILED: {record['error']}")

    (engine or Local()).run(listed, out, note, report, say)
    return [records[job.arm, job.seed] for job in listed]


def planned(job: Job, out: Path) -> dict[str, Any]:
    """What `studies.status` needs to know of a job before it has started."""
    path = job.path.relative_to(out).as_posix()
    return {"arm": job.arm, "seed": job.seed, "path": path, "generations": job.config.generations}


def runs_of(out: Path) -> list[tuple[str, int, Run]]:
    """The complete runs of a sweep's folder: arm, seed, run.

    Raises ConfigError if the folder holds no sweep.
    """
    if not (out / "sweep.json").exists():
        raise ConfigError(
            f"{out} holds no sweep (no sweep.json); start one with: difflab sweep SWEEP.yaml --out {out}"
        )
    complete = [record for record in read_json(out / "sweep.json")["jobs"] if not record["error"]]
    return [(record["arm"], record["seed"], open_run(out / record["path"])) for record in complete]


def arms_in(out: Path) -> list[Arm]:
    """All arms of a sweep's folder in the order of its file. An arm may have no complete run."""
    runs_by_arm: dict[str, dict[int, Run]] = {}
    for arm, seed, run in runs_of(out):
        runs_by_arm.setdefault(arm, {})[seed] = run
    stored = read_json(out / "sweep.json")
    names = stored.get("arms")
    if not names:  # a sweep of an older version, which stored the arms of its jobs only
        names = list(dict.fromkeys(record["arm"] for record in stored["jobs"]))
    return [Arm(name, runs_by_arm.get(name, {})) for name in names]

"""Run the jobs of a study on a Slurm cluster, through submitit (extra ``cluster``).

The command that submits is only a guest: it may be stopped, killed or lose its connection, and the same
command finds its jobs in the queue again, submits what has no result and is not in the queue, and waits for
the rest. The jobs write their results themselves (`executors/ledger.py`).

Jobs are submitted in arrays. The first array makes generation 0 of each group of jobs that share it. All
others start after it has ended (afterany): if it has failed, each of them makes its own generation 0. Slurm
puts a job back into the queue after a preemption, a lost node, or shortly before its time limit. It then
resumes from its last finished stage or checkpoint.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from difflab.core.errors import ConfigError
from difflab.loop.auto import asked
from difflab.runs.folder import STAGES
from difflab.runs.run import Run
from difflab.studies.executors import squeue
from difflab.studies.executors.ledger import Ledger, recipe_of
from difflab.studies.executors.squeue import Queued, QueueError
from difflab.studies.executors.task import Decide, Task
from difflab.studies.job import Job, Record, groups, record_of

Setting = str | int | bool
RESERVED = ("job_name", "dependency", "array_parallelism", "array", "signal", "requeue", "output", "error")
"""Options of sbatch that difflab sets itself."""
LONGEST_LOOK_S = 15.0
"""Seconds between two looks at the queue, at most."""
GRACE = 4
"""Looks after which a job that is not in the queue and has no record counts as failed: disks may lag."""
AUTO = "auto.first"
"""The key of the task that decides the fields that are auto."""
ENDLESS = 10**6
"""How often submitit may put a job back into the queue. `ledger.STARTS` is the limit that counts."""


@dataclass(frozen=True)
class Slurm:
    """A Slurm cluster as an engine, see `executors.engine.Engine`.

    Attributes:
        settings: options of sbatch with underscores, such as partition, gpus_per_node, cpus_per_task, mem and
            time. With gpus_per_node, one process per GPU is started; tasks_per_node sets another number.
            `setup` is a shell command that the job runs first. `python` is how it starts Python, such as
            "apptainer exec --nv difflab.sif python"; without it, it is the Python of this process.
        max_jobs: jobs of one submission that may run at the same time; None = as many as the cluster starts.
    """

    settings: Mapping[str, Setting] = field(default_factory=dict)
    max_jobs: int | None = None

    def run(
        self,
        listed: Sequence[Job],
        out: Path,
        note: Callable[[Job, Record], None],
        report: Callable[[Job], Any] | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Submit jobs that have no result and are not in the queue, and wait until all have ended.

        Raises ConfigError if submitit or Slurm is missing, if sbatch refuses the settings, or if a job in the
        queue belongs to another config.
        """
        needed()
        out = out.resolve()
        placed = {Path(job.path).resolve(): job for job in listed}
        local = [replace(job, path=path) for path, job in placed.items()]
        ledger = Ledger(out)
        with ledger.claimed():
            ids = self._submit(local, ledger, say)
            follow(local, ledger, ids, lambda job, record: note(placed[job.path], record), say)

    # ------------------------------------------------------------------------------------------- submission
    def _submit(self, listed: Sequence[Job], ledger: Ledger, say: Callable[[str], None]) -> dict[str, str]:
        """Submit what is missing. Returns the Slurm ids of all jobs in the queue, by key."""
        there = {key: found.slurm_id for key, found in in_queue(ledger, listed).items()}
        todo = [
            job
            for job in listed
            if ledger.key(job) not in there and (ledger.record(job) or {"error": ""})["error"] is not None
        ]
        if not todo:
            return there
        for job in todo:
            ledger.forget(job)
        recipes = {ledger.key(job, first): recipe_of(job) for job in todo for first in (False, True)}

        def submit(tasks: Mapping[str, Callable[[], None]], after: Sequence[str]) -> list[str]:
            new = {key: task for key, task in tasks.items() if key not in there}
            there.update(self._array(ledger, new, recipes, after, say))
            return [there[key] for key in tasks]

        decision: list[str] = []
        if any(asked(job.config) for job in todo):
            decision = submit({AUTO: Decide(tuple(listed), ledger.out)}, [])
        leaders = [group[0] for group in groups(todo) if len(group) > 1 and not _begun(group[0])]
        first = submit({ledger.key(job, True): Task(job, ledger.out, True) for job in leaders}, decision)
        # A job that shares nothing need not wait for a leader, unless both would exceed the number of jobs.
        kinds = groups(todo)
        alone = [] if self.max_jobs else [job for group in kinds if len(group) == 1 for job in group]
        rest = [job for group in kinds for job in group if job not in alone]
        submit({ledger.key(job): Task(job, ledger.out) for job in alone}, decision)
        submit({ledger.key(job): Task(job, ledger.out) for job in rest}, [*decision, *first])
        return there

    def _array(
        self,
        ledger: Ledger,
        tasks: Mapping[str, Callable[[], None]],
        recipes: Mapping[str, str],
        after: Sequence[str],
        say: Callable[[str], None],
    ) -> dict[str, str]:
        """Submit tasks as arrays that start when the jobs `after` have ended. Returns Slurm ids by key."""
        ids: dict[str, str] = {}
        keys = list(tasks)
        if not keys:
            return ids
        largest = squeue.largest_array()
        parts = [keys[start : start + largest] for start in range(0, len(keys), largest)]
        for part in parts:
            array = ledger.new_array(part, [recipes.get(key, "") for key in part])
            executor = self._executor(ledger, array.name, after, len(part), len(parts))
            ids |= dict(zip(part, _submitted(executor, [tasks[key] for key in part]), strict=True))
        first = ids[keys[0]].partition("_")[0]
        say(f"submitted {len(keys)} job{'s' * (len(keys) > 1)} to Slurm, from {first}: {array.name}")
        return ids

    def _executor(self, ledger: Ledger, name: str, after: Sequence[str], tasks: int, arrays: int) -> Any:
        """The executor of submitit with all options of sbatch."""
        from submitit import SlurmExecutor

        wrong = sorted(set(self.settings) & set(RESERVED))
        if wrong:
            raise ConfigError(f"--slurm {wrong[0]}=...: difflab sets this itself; leave it out")
        settings: dict[str, Any] = dict(self.settings)
        limit = str(settings.pop("time", None) or squeue.default_time(settings.get("partition")))
        delay = int(settings.pop("signal_delay_s", 90))
        processes = settings.pop("tasks_per_node", None) or settings.get("gpus_per_node") or 1
        settings.setdefault("ntasks_per_node", int(processes))
        if "setup" in settings:
            settings["setup"] = [str(settings["setup"])]
        python = settings.pop("python", None)
        executor = SlurmExecutor(folder=ledger.logs, max_num_timeout=ENDLESS, python=python)
        known = executor._valid_parameters()
        others = {key: settings.pop(key) for key in list(settings) if key not in known}
        most = max(1, self.max_jobs // arrays) if self.max_jobs else tasks
        if after:
            settings["dependency"] = "afterany:" + ":".join(dict.fromkeys(i.partition("_")[0] for i in after))
        executor.update_parameters(
            **settings,
            job_name=name,
            time=squeue.minutes(limit),
            signal_delay_s=delay,
            array_parallelism=most,
            stderr_to_stdout=True,
            srun_args=["--kill-on-bad-exit=1"],
            additional_parameters={**others, "time": limit, "requeue": True},
        )
        return executor


def _submitted(executor: Any, tasks: Sequence[Callable[[], None]]) -> list[str]:
    """Submit tasks as one array and return their Slurm ids. Raises ConfigError if sbatch refuses it."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with redirect_stderr(StringIO()), executor.batch():  # submitit prints what sbatch says
            jobs = [executor.submit(task) for task in tasks]
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line for line in str(error).splitlines() if line.startswith("sbatch: ")]
        line = lines[-1].replace(" error:", "") if lines else f"sbatch: {' '.join(str(error).split())}"
        raise ConfigError(line) from error
    return [job.job_id for job in jobs]


def _begun(job: Job) -> bool:
    """Whether generation 0 of a job exists."""
    return (job.path / "run.yaml").exists() and all(Run(job.path, job.config).done(0, s) for s in STAGES)


def needed() -> None:
    """Raise ConfigError unless submitit and Slurm are there."""
    if find_spec("submitit") is None:
        raise ConfigError('--engine slurm needs submitit: pip install "difflab[cluster]"')
    squeue.largest_array()


# ----------------------------------------------------------------------------------------------------- queue
def in_queue(ledger: Ledger, listed: Sequence[Job] = ()) -> dict[str, Queued]:
    """The jobs of a study that are in the queue, by key.

    Raises ConfigError if one of them runs a job of `listed` with another config.
    """
    arrays = {array.name: array for array in ledger.arrays()}
    wanted = {ledger.key(job, first): recipe_of(job) for job in listed for first in (False, True)}
    found: dict[str, Queued] = {}
    for queued in squeue.queued(arrays):
        key = arrays[queued.name].keys[queued.index]
        recipe = arrays[queued.name].recipes[queued.index]
        if wanted.get(key, recipe) != recipe:
            raise ConfigError(
                f"Slurm job {queued.slurm_id} works on {key} with another config; wait for it, or end it "
                "with --cancel"
            )
        found[key] = queued
    return found


def cancel(out: Path) -> int:
    """Cancel all jobs of a study that are in the queue. Returns their number."""
    ledger = Ledger(out.resolve())
    if not ledger.home.exists():
        raise ConfigError(f"{out} holds no jobs of a cluster: nothing was submitted there")
    ids = [queued.slurm_id for queued in in_queue(ledger).values()]
    if ids:
        squeue.cancel(ids)
    return len(ids)


def follow(
    listed: Sequence[Job],
    ledger: Ledger,
    ids: Mapping[str, str],
    note: Callable[[Job, Record], None],
    say: Callable[[str], None],
) -> None:
    """Wait until every job has a record or has left the queue, and pass each record to `note`.

    Args:
        ids: Slurm ids by key, for messages.
    """
    waiting = {ledger.key(job): job for job in listed}
    missing: Counter[str] = Counter()
    shown, said, pause, trouble = "", 0, 0.5, ""
    while True:
        try:
            there, trouble_now = in_queue(ledger), ""
        except QueueError as error:  # Slurm's controller may be away for a while
            there, trouble_now = {}, str(error)
        if trouble_now != trouble and trouble_now:
            say(f"{trouble_now}; trying again")
        trouble = trouble_now
        for sentence in ledger.decided().get("said", [])[said:]:
            say(sentence)
            said += 1
        for key, job in list(waiting.items()):
            record = ledger.record(job)
            if record is None and key not in there and not trouble:
                missing[key] += 1
                if missing[key] >= GRACE:
                    record = record_of(job, ledger.out, lost(ledger, ids.get(key, ""), key))
            if record is not None:
                note(job, record)
                del waiting[key]
        counts = _counts(len(listed), waiting, there)
        if counts != shown and not trouble:
            say(counts)
            shown = counts
        if not waiting:
            return
        time.sleep(pause)
        pause = min(LONGEST_LOOK_S, pause * 1.3)


def _counts(total: int, waiting: Mapping[str, Job], there: Mapping[str, Queued]) -> str:
    """One line on how far the jobs are."""
    running = [there[key] for key in waiting if key in there and there[key].runs]
    nodes = sorted({queued.node for queued in running if queued.node})
    where = f" on {', '.join(nodes[:4])}{' ...' * (len(nodes) > 4)}" if nodes else ""
    return f"{total - len(waiting)} of {total} jobs have ended, {len(running)} run{where}"


def lost(ledger: Ledger, slurm_id: str, key: str) -> str:
    """The error of a job that has left the queue without a record."""
    how = squeue.ending(slurm_id) if slurm_id else ""
    log = ledger.logs / f"{slurm_id}_0_log.out"
    where = f"; its output: {log}" if log.exists() else ""
    words = f"Slurm job {slurm_id} ended without a result" + (f" ({how})" if how else "")
    return f"{words if slurm_id else f'{key} is not in the queue'}; the same command submits it again{where}"

"""The state that the stages of a chain share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from difflab import policies
from difflab.config import Config
from difflab.core.progress import Reporter
from difflab.loop import added_measures as added
from difflab.loop import trackers
from difflab.policies import At, Policy
from difflab.runs.run import Run, run_class


@dataclass
class Work:
    """The state of one chain, or of one lab of an ecosystem, while its stages run.

    Attributes:
        run: the run.
        accelerator: the processes and their devices.
        report: shows progress and messages.
        extractors: the open feature extractors, in the order of measure.extractors.
        more: the measures that were added to the run later, with their extractors.
        plots: whether curves.png is drawn.
        done: the (generation, stage) pairs that earlier calls have finished.
        rehearsed: whether this call has already saved a model, or tested that it can save one.
        forward_flops: FLOPs of a forward pass for one image; None = not counted yet.
        after_stage: called in the main process when files of the run are complete; None = nothing is.
    """

    run: Run
    accelerator: Accelerator
    report: Reporter
    extractors: list[Any] = field(default_factory=list)
    more: list[added.Opened] = field(default_factory=list)
    plots: bool = True
    done: set[tuple[int, str]] = field(default_factory=set)
    rehearsed: bool = False
    forward_flops: float | None = None
    after_stage: Callable[[], None] | None = None

    @cached_property
    def tracked(self) -> trackers.Trackers:
        """The experiment trackers of the run (tensorboard, wandb, trackio)."""
        return trackers.Trackers(self.run)

    @property
    def generations(self) -> range:
        """The generations 0..T."""
        return range(self.run.config.generations + 1)

    @property
    def main(self) -> bool:
        """Whether this is the main process. It writes all files except shards, features and latents."""
        return self.accelerator.is_main_process

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self.accelerator.wait_for_everyone()

    def finished(self) -> None:
        """Call `after_stage` in the main process."""
        if self.main and self.after_stage:
            self.after_stage()

    def acting(self, hook: str, generation: int, **context: Any) -> Iterator[tuple[Policy, At]]:
        """The policies that act through `hook` in this generation, each with its context."""
        return policies.acting(
            hook,
            self.run.config,
            generation,
            run=self.run,
            extractors=self.extractors,
            device=self.accelerator.device,
            say=self.report.say,
            **context,
        )


def open_for_work(config: Config, path: Path, accelerator: Accelerator) -> Run:
    """Open the run in `path` for work.

    The main process checks and claims the folder before the other processes read it. Their renames are
    checked against the same claim.

    Raises StoreError if the folder is not empty and belongs to another recipe, or is in use, see
    `RunFolder.create`.
    """
    kind = run_class(config)
    with accelerator.main_process_first():
        run = kind.create(path, config) if accelerator.is_main_process else kind(path, config)
    if accelerator.num_processes > 1:
        run.follow(broadcast_object_list([run.claims])[0])
    return run

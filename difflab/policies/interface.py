"""What every policy is: a frozen spec with hooks, and where it stands when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from difflab.config import PolicySpec, Sample, Train
from difflab.core.errors import ConfigError
from difflab.core.seeds import lab_seed, numpy_generator
from difflab.models import family_of


@dataclass(frozen=True)
class At:
    """Where a policy is asked.

    Attributes:
        generation: t.
        position: of the policy in the config's list: two of a kind draw different random numbers.
        config: of the run.
        run: the run, None where a config is only checked.
        n_train: real images in the train split; the first n0 are generation 0's, the rest the reserve.
        extractors: the opened feature extractors, in the order of measure.extractors.
        device: where models run.
        say: shows a line to whoever runs the chain.
    """

    generation: int
    position: int
    config: Any
    run: Any = None
    n_train: int = 0
    extractors: Sequence[Any] = ()
    device: Any = "cpu"
    say: Callable[[str], None] = lambda text: None

    def rng(self, *words: object) -> np.random.Generator:
        """Random numbers that depend on the run's seed, the lab, the generation, the policy's place and `words` alone."""
        return numpy_generator(
            "policy", lab_seed(self.config.seed, self.config.lab), self.generation, self.position, *words
        )

    def extractor(self, name: str | None = None) -> Any:
        """The opened extractor `name` of measure.extractors; None = the one that the class judge reads. Raises ConfigError."""
        specs = list(self.config.measure.extractors)
        name = name or self.config.measure.judge_extractor
        if name not in specs:
            raise ConfigError(f"policies: '{name}' is none of measure.extractors {specs}; add it there")
        return self.extractors[specs.index(name)]

    def model(self, which: str) -> Any:
        """A model other than the generation's own: 'base' = the pretrained one, without one generation 0's; 'previous' = generation t-1's."""
        config, family = self.config, family_of(self.config.model)
        if which == "base" and config.text:
            model = family(config.model, self.run.shape)
            model.initialise(0)
            return model
        return family.load(
            config.model,
            self.run.shape,
            self.run.gen(0 if which == "base" else self.generation - 1) / "model",
        )


class Policy(PolicySpec):
    """One policy. Its fields are its settings; it acts through the hooks that it overrides, listed in the order of a generation."""

    source: ClassVar[str] = ""
    """Where it comes from."""

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Whether it has its own `hook`."""
        return getattr(cls, hook) is not getattr(Policy, hook)

    def acts(self, hook: str, generation: int) -> bool:
        """Whether it overrides `hook` and this is one of its generations."""
        return self.overrides(hook) and self.first <= generation <= (
            generation if self.last is None else self.last
        )

    def check(self, config: Any) -> None:
        """Raise ConfigError where it does not fit the rest of the config."""

    def decides(self) -> tuple[str, ...]:
        """What it settles alone in its generations, in words: two policies that settle the same contradict each other. () = it stacks."""
        return ()

    def meets(self, other: Policy, generations: int) -> int | None:
        """The first generation in which both act, None = there is none up to `generations`."""
        first = max(self.first, other.first)
        last = min(own for own in (self.last, other.last, generations) if own is not None)
        return first if first <= last else None

    # ------------------------------------------------------------------------------------------------ hooks
    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        """Stage mix: other pools (see regimes.Pool), counts or budget for training set t."""
        return drawn, budget

    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        """Stage mix: other rows (pool, lab, generation, index, replicate, and condition: see TrainSet) than were drawn from the pools for training set t."""
        return rows

    def row_weights(self, at: At, rows: pa.Table) -> np.ndarray:
        """Stage train: how much each row of training set t counts in the loss, float64 [n], >= 0; only ratios matter."""
        return np.ones(len(rows))

    def training(self, at: At, train: Train) -> Train:
        """Stage train: other settings for the training of t."""
        return train

    def trainer(self, at: At, model: Any) -> Any:
        """Stage train: a `difflab.policies.watch.Watch`, asked after every step of the optimiser."""

    def weights(self, at: At, model: Any) -> None:
        """Stage train: change the trained model in place before it is saved and sampled."""

    def sampling(self, at: At, how: Sample) -> Sample:
        """Stage sample: other settings for the samples of t."""
        return how

    def steer(self, at: At, model: Any) -> Any:
        """Stage sample: a `difflab.models.denoiser.Steer`, asked at every denoising step."""

    def select(self, at: At, candidates: Any) -> list[str | None]:
        """Stage select: for each candidate (see difflab.policies.candidates.Candidates) None = it may train, or the reason why not."""
        return [None] * len(candidates)

    def fresh(self, config: Any, n0: int) -> int:
        """Unseen real images that it draws from the reserve over the whole chain; n0 = size of generation 0's training set."""
        return 0

    def keeps(self, count: int) -> int:
        """How many of `count` samples `select` leaves at least, as far as that is known before they are drawn."""
        return count

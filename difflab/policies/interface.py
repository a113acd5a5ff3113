"""The interface of a policy: a frozen spec with hooks, and the context that each hook gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from difflab.config import PolicySpec, Sample, Train
from difflab.core.errors import ConfigError
from difflab.core.seeds import lab_seed, numpy_generator
from difflab.core.shape import Shape
from difflab.models import family_of
from difflab.runs.origins import Evidence


@dataclass(frozen=True)
class At:
    """The context of a call of a hook.

    Attributes:
        generation: the generation t in which the policy acts.
        position: position of the policy in the list `policies`. Two policies of one kind draw different
            random numbers.
        config: the config of the run.
        run: the run; None while a config is only checked.
        n_train: number of real images in the train split. The first n0 are generation 0's training set, the
            rest are the reserve.
        real_depths: the counted depth of each real image of the train split, int64 [n_train]; 0 = it counts
            as real. None = all count as real.
        evidence: the real images of unknown origin, and the audit of the source; None = nothing is known.
        extractors: the opened feature extractors, in the order of measure.extractors.
        device: the device on which models run.
        say: a function that shows a line of text to the user.
    """

    generation: int
    position: int
    config: Any
    run: Any = None
    n_train: int = 0
    real_depths: np.ndarray | None = None
    evidence: Evidence | None = None
    extractors: Sequence[Any] = ()
    device: Any = "cpu"
    say: Callable[[str], None] = lambda text: None

    def real_rows(self, start: int, stop: int) -> np.ndarray:
        """Positions from `start` to `stop` in the train split of the images that count as real, int64."""
        rows = np.arange(start, max(start, stop))
        return rows if self.real_depths is None else rows[self.real_depths[rows] == 0]

    def rng(self, *words: object) -> np.random.Generator:
        """A random stream that depends only on the run's seed, the lab, the generation, the policy's position
        and `words`.
        """
        return numpy_generator(
            "policy", lab_seed(self.config.seed, self.config.lab), self.generation, self.position, *words
        )

    def extractor(self, name: str | None = None) -> Any:
        """The opened extractor `name`; None = the extractor of the class judge.

        Raises ConfigError if measure.extractors does not list it.
        """
        specs = list(self.config.measure.extractors)
        name = name or self.config.measure.judge_extractor
        if name not in specs:
            raise ConfigError(
                f"policies: extractor '{name}' is not in measure.extractors {specs}; add it there"
            )
        return self.extractors[specs.index(name)]

    def model(self, which: str) -> Any:
        """A model of another generation.

        'base' is the pretrained base, or the model of generation 0 if there is no pretrained base.
        'previous' is the model of generation t-1.
        """
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
    """A policy. Its fields are its settings, and it acts through the hooks that it overrides.

    The hooks below are in the order in which a generation calls them.
    """

    source: ClassVar[str] = ""
    """The publication that the policy comes from; '' = none."""

    @classmethod
    def overrides(cls, hook: str) -> bool:
        """Whether the policy overrides `hook`."""
        return getattr(cls, hook) is not getattr(Policy, hook)

    def acts(self, hook: str, generation: int) -> bool:
        """Whether the policy overrides `hook` and acts in this generation."""
        return self.overrides(hook) and self.first <= generation <= (
            generation if self.last is None else self.last
        )

    def check(self, config: Any) -> None:
        """Raise ConfigError if the policy does not fit the rest of the config."""

    def check_model(self, model: Any) -> None:
        """Raise ConfigError if the policy does not fit the base of a text-to-image family."""

    def check_real(self, at: At) -> None:
        """Raise ConfigError if the policy does not allow the real set, whose depths are in `at.real_depths`.

        This is called before anything is fitted, with generation 0.
        """

    def check_shape(self, shape: Shape) -> None:
        """Raise ConfigError if the policy does not fit the images, before anything is fitted."""

    def decides(self) -> tuple[str, ...]:
        """Names, in words, of the things that this policy alone sets in its generations; () = nothing.

        Two policies that set the same thing in one generation contradict each other.
        """
        return ()

    def meets(self, other: Policy, generations: int) -> int | None:
        """The first generation in which both policies act; None = there is none up to `generations`."""
        first = max(self.first, other.first)
        last = min(end for end in (self.last, other.last, generations) if end is not None)
        return first if first <= last else None

    # ------------------------------------------------------------------------------------------------ hooks
    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        """Stage mix: change the pools of training set t (difflab.runs.train_set.Pool), their counts, or the
        budget.
        """
        return drawn, budget

    def rows(self, at: At, rows: pa.Table) -> pa.Table:
        """Stage mix: change the rows that were drawn from the pools for training set t.

        Columns: pool, lab, generation, index, replicate, and optionally condition (see TrainSet).
        """
        return rows

    def row_weights(self, at: At, rows: pa.Table) -> np.ndarray:
        """Stage train: the weight of each row of training set t in the loss, float64 [n], >= 0; only ratios
        matter.
        """
        return np.ones(len(rows))

    def training(self, at: At, train: Train) -> Train:
        """Stage train: change the settings of this training."""
        return train

    def trainer(self, at: At, model: Any) -> Any:
        """Stage train: a callback (difflab.policies.watch.Watch) that is called after every step of the
        optimiser.
        """

    def weights(self, at: At, model: Any) -> None:
        """Stage train: change the trained model in place before it is saved and sampled."""

    def sampling(self, at: At, sample: Sample) -> Sample:
        """Stage sample: change the settings of sampling."""
        return sample

    def steer(self, at: At, model: Any) -> Any:
        """Stage sample: a callback (difflab.models.steer.Steer) that is called in every denoising step."""

    def drawn_images(self, at: At, pixels: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Stage sample: change drawn images before they are stored, uint8 [n, H, W, C] or of several sizes
        (`difflab.core.ragged`). The result of an image must depend on the image and its seed only.
        """
        return pixels

    def select(self, at: At, candidates: Any) -> list[str | None]:
        """Stage select: for each candidate the reason to drop it, or None to keep it.

        See difflab.policies.candidates.Candidates.
        """
        return [None] * len(candidates)

    def fresh(self, config: Any, n0: int) -> int:
        """The number of unseen real images that the policy draws from the reserve over the whole chain.

        n0: the size of generation 0's training set.
        """
        return 0

    def keeps(self, count: int) -> int:
        """The smallest number of `count` samples that `select` keeps, if it is known before sampling."""
        return count

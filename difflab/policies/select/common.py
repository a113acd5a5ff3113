"""Base classes and functions of selection policies: groups of candidates, numbers kept, features, rewards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from difflab.core.errors import ConfigError
from difflab.metrics.distances import squared_distances
from difflab.policies import rewards
from difflab.policies.candidates import Candidates
from difflab.policies.interface import At, Policy


def part(share: float, n: int) -> int:
    """`share` times n, rounded up.

    >>> part(0.1, 30), part(0.25, 5)
    (3, 2)
    """
    return math.ceil(share * n - 1e-9)


def groups(candidates: Any, within: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each class or prompt and the ascending positions of its candidates.

    Raises ConfigError if a sample has no class or prompt.
    """
    if within == "all":
        yield f"generation {candidates.generation}", np.arange(len(candidates))
        return
    requested = candidates.rows[within]
    if requested.null_count:
        raise ConfigError(
            f"policies: samples are grouped by {within}, but {requested.null_count} of them have no "
            f"{within}; "
            "use within: all"
        )
    names = np.array(requested.to_pylist(), dtype=object)
    for name in sorted(set(names)):
        yield f"{within} '{name}'", np.flatnonzero(names == name)


def real_spacing(real: torch.Tensor, block: int = 512) -> torch.Tensor:
    """The distance from each real image to the nearest other real image, float32 [n], n >= 2."""
    if len(real) < 2:
        raise ConfigError(
            f"policies: the spacing of real images needs at least 2 real images, but there are {len(real)}"
        )
    distances = []
    for start in range(0, len(real), block):
        to_all = squared_distances(real[start : start + block], real)
        itself = torch.arange(len(to_all))
        # exclude by index, so that a duplicate still counts as a neighbour
        to_all[itself, start + itself] = float("inf")
        distances.append(to_all.min(1).values)
    return torch.cat(distances).sqrt()


class Nearest:
    """The squared distance of each of n points to the nearest point that was added, float64 [n].

    The distances are infinite before a point is added.
    """

    def __init__(self, points: torch.Tensor) -> None:
        self._x = points.double() - points.double().mean(0)
        self._norm = self._x.square().sum(1)
        self.squared = torch.full((len(points),), math.inf, dtype=torch.float64)

    def add(self, i: int) -> None:
        scale = self._norm + self._norm[i]
        squared = torch.addmv(scale, self._x, self._x[i], alpha=-2)
        self.squared = torch.minimum(
            self.squared, squared.where(squared > 1e-12 * scale, 0)
        )  # copies have distance 0 in spite of rounding


class Selector(Policy):
    """A policy that drops samples."""

    on_numbers: ClassVar[bool] = True
    """Whether the policy can also select samples of the exact families."""

    def check(self, config: Any) -> None:
        super().check(config)
        if config.exact and not self.on_numbers:
            raise ConfigError(
                f"policies: {self.policy} compares images, but the samples of "
                f"model.family={config.model.family} are numbers"
            )
        if config.exact and config.model.replicates > 1:
            raise ConfigError(
                f"policies: {self.policy} selects samples, but parallel chains share samples; set "
                "model.replicates=1 and use several seeds"
            )


class Within(Selector):
    within: Literal["all", "class", "prompt"] = Field(
        "all",
        description="Which samples are compared with each other: all samples of a generation (all, off), or "
        "only samples with the same requested class or prompt.",
    )

    def check(self, config: Any) -> None:
        super().check(config)
        if self.within != "all" and not (config.conditional and (config.text or self.within == "class")):
            raise ConfigError(
                f"policies: {self.policy}: the samples of this model have no requested {self.within}; use "
                "within: all"
            )


class Sized(Within):
    """Keeps a share or a number of the candidates of each group; `pick` selects them."""

    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the candidates of each group that are kept, above 0 to 1, rounded up; 1 = "
        "all, null = unused.",
    )
    count: int | None = Field(
        None,
        ge=1,
        description="Number of samples of each generation that are kept. It needs within: all; null = "
        "unused.",
    )

    ways: ClassVar[tuple[str, ...]] = ("share", "count")
    why: ClassVar[str] = "not chosen"
    """The reason that dropped samples get."""

    @model_validator(mode="after")
    def _one_way(self) -> Sized:
        set_ways = [way for way in self.ways if getattr(self, way) is not None]
        if len(set_ways) != 1:
            raise ValueError(
                f"set exactly one of {', '.join(self.ways)}; got {' and '.join(set_ways) or 'none'}"
            )
        if self.count is not None and self.within != "all":
            raise ValueError(
                f"count applies to the whole generation; with within: {self.within} set share instead"
            )
        return self

    def quota(self, n: int) -> int:
        """The number of n candidates that are kept."""
        if self.count is None:
            return n if self.share is None else part(self.share, n)
        if self.count > n:
            raise ConfigError(
                f"policies: {self.policy} keeps {self.count} samples, but there are {n}; lower count or "
                "raise sample.count"
            )
        return self.count

    def keeps(self, count: int) -> int:
        return self.quota(count)

    def pick(self, at: At, candidates: Any, n: int, group: str) -> np.ndarray:
        """The positions of the n candidates of one group that are kept."""
        raise NotImplementedError

    def select(self, at: At, candidates: Any) -> list[str | None]:
        reasons: list[str | None] = [self.why] * len(candidates)
        for group, members in groups(candidates, self.within):
            among = candidates.only(candidates.index[members])
            for i in members[self.pick(at, among, self.quota(len(members)), group)]:
                reasons[i] = None
        return reasons


class Featured(Selector):
    extractor: str | None = Field(
        None,
        description="The extractor of measure.extractors whose features give the distances; null = the "
        "extractor of the class judge.",
    )

    on_numbers: ClassVar[bool] = False

    def check(self, config: Any) -> None:
        super().check(config)
        rewards.check_features(config, self.policy, self.extractor)


class Rewarded(Selector):
    reward: str = Field(
        description="Name of the reward; difflab/policies/rewards.py lists all rewards. 'chance' is random: "
        "a control that keeps equally many samples."
    )
    lowest: bool = Field(
        False,
        description="Prefer the lowest reward, as an adversarial curator does (Wei & Zhang 2505.09768); "
        "false = the highest.",
    )

    @field_validator("reward")
    @classmethod
    def _known(cls, reward: str) -> str:
        rewards.find(reward)
        return reward

    def check(self, config: Any) -> None:
        super().check(config)
        rewards.check(config, self.policy, self.reward)

    def scores(self, at: At, candidates: Any) -> np.ndarray:
        """The reward of each candidate, float64 [n], finite; its negative with `lowest`."""
        scores = rewards.scores(self.reward, at, candidates)
        return -scores if self.lowest else scores


class OneOfK(Within, Rewarded):
    """Keeps one of every k candidates."""

    k: int = Field(
        ge=1, description="Number of samples of which one is kept; 1 = all samples are kept (off)."
    )

    def check(self, config: Any) -> None:
        super().check(config)
        fewest = min(config.sample.count_of(t) for t in range(self.first, config.generations + 1))
        if self.k > fewest:
            raise ConfigError(
                f"policies: {self.policy} keeps one of {self.k} samples, but a generation has only {fewest}; "
                "lower k or raise sample.count"
            )
        for later in config.policies[config.policies.index(self) + 1 :]:
            opposite = (
                isinstance(later, OneOfK)
                and later.reward == self.reward != "chance"
                and later.lowest != self.lowest
            )
            if opposite and self.k > 1 < later.k and self.meets(later, config.generations) is not None:
                raise ConfigError(
                    f"policies: {self.policy} and {later.policy} prefer the highest and the lowest "
                    f"{self.reward} of the same samples; remove one of them, or give them different "
                    "generations with first and last"
                )

    def keeps(self, count: int) -> int:
        return count // self.k  # with within: class, up to one fewer for each class

    def prefer(self, at: At, scores: np.ndarray, group: str) -> np.ndarray:
        """Preferences [m, k] from the scores [m, k].

        The candidate with the largest preference of each row is kept.
        """
        return scores

    def select(self, at: At, candidates: Any) -> list[str | None]:
        reasons: list[str | None] = [f"another of its {self.k} was preferred"] * len(candidates)
        scores = self.scores(at, candidates)
        for group, members in groups(candidates, self.within):
            if len(members) < self.k:
                raise ConfigError(
                    f"policies: {self.policy} keeps one of {self.k} samples, but {group} has {len(members)} "
                    f"candidates in generation {candidates.generation}, so none of them would be kept; lower "
                    "k, raise sample.count or use within: all"
                )
            order = at.rng("groups", group).permutation(members)
            full = order[: len(members) // self.k * self.k].reshape(-1, self.k)
            for i in order[full.size :]:
                reasons[i] = f"left over: too few for a group of {self.k}"
            for i in full[np.arange(len(full)), self.prefer(at, scores[full], group).argmax(1)]:
                reasons[i] = None
        return reasons


class Spread(Sized, Featured):
    """Keeps images that are far apart; the method `spread` selects them.

    The policy selects from the samples of a generation, or from all images of a training set (`stage: mix`).
    """

    stage: Literal["select", "mix"] = Field(
        "select",
        description="select = select from the samples of each generation; mix = select from all images of "
        "training set t, real images included.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Spread:
        if self.stage == "mix" and self.within != "all":
            raise ValueError("stage: mix selects from all images together; use within: all")
        return self

    def check(self, config: Any) -> None:
        super().check(config)
        if self.stage == "mix" and config.ecosystem is not None:
            raise ConfigError(
                f"policies: {self.policy} with stage: mix selects before labs exchange their samples; use "
                "stage: select in an ecosystem"
            )

    def spread(self, at: At, candidates: Any, features: torch.Tensor, n: int) -> np.ndarray:
        """The positions of the n images that are kept, from features [m, d].

        In stage mix `candidates` is None.
        """
        raise NotImplementedError

    def pick(self, at: At, candidates: Any, n: int, group: str) -> np.ndarray:
        return self.spread(at, candidates, candidates.features(at.extractor(self.extractor)), n)

    def keeps(self, count: int) -> int:
        return count if self.stage == "mix" else super().keeps(count)

    def select(self, at: At, candidates: Any) -> list[str | None]:
        return [None] * len(candidates) if self.stage == "mix" else super().select(at, candidates)

    def pools(self, at: At, drawn: list[Any], budget: int | None) -> tuple[list[Any], int | None]:
        if self.stage == "select" or at.generation == 0:
            return drawn, budget
        if budget is not None or any(pool.count != len(pool.rows) for pool in drawn):
            raise ConfigError(
                f"policies: {self.policy} with stage: mix replaces the random draw of the regime; use "
                "regime.name=replace or accumulate without set_size"
            )
        wanted = self.quota(sum(pool.count for pool in drawn))
        if at.run is None:  # the config is only checked
            return drawn, wanted

        extractor = at.extractor(self.extractor)
        features = []
        for pool in drawn:
            candidates = Candidates(at.run, pool.generation, pool.rows, at.extractors)
            features.append(candidates.features(extractor))
        kept = np.zeros(sum(len(pool.rows) for pool in drawn), dtype=bool)
        kept[self.spread(at, None, torch.cat(features), wanted)] = True
        selected, start = [], 0
        for pool in drawn:
            rows = pool.rows[kept[start : start + len(pool.rows)]]
            selected.append(replace(pool, rows=rows, count=len(rows)))
            start += len(pool.rows)
        return selected, None

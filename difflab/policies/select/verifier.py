"""Keep the samples that an imperfect classifier accepts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from difflab.config.policy_registry import policy
from difflab.core.errors import ConfigError
from difflab.core.seeds import lab_seed, numpy_generator
from difflab.metrics.judge import Judge
from difflab.policies.interface import At
from difflab.policies.select.common import Featured, Sized, part


@policy("verifier")
class Verifier(Sized, Featured):
    """An imperfect classifier keeps samples by the probability of the requested class.

    The policy keeps a share of the samples, a number, or all above a threshold. The classifier is fitted
    once for the whole run, to a part of generation 0's training set. The part can have fewer images, or only
    some classes, which makes the classifier biased. Feng et al. 2406.07515 find that an imperfect verifier
    suffices. Yi et al. 2510.16657 find that the chain converges to what the verifier knows. Qiao et al.
    2606.13732 find that siloed verifiers prune tails. A class that the classifier was not fitted to has
    probability 0, so its samples are dropped first. Exact: unless `threshold`
    is set, the share or number that is kept is the requested one.
    """

    source: ClassVar[str] = (
        "Feng et al., arXiv 2406.07515; Yi et al., arXiv 2510.16657; Qiao et al., arXiv 2606.13732"
    )
    ways: ClassVar[tuple[str, ...]] = ("share", "count", "threshold")
    why: ClassVar[str] = "the verifier gives the requested class too low a probability"

    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Smallest probability of the requested class at which a sample is kept, 0 to 1; 0 = all "
        "are kept, null = unused.",
    )
    real_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of generation 0's training images that the verifier is fitted to, above 0 to 1; "
        "1 = all.",
    )
    classes: list[str] | None = Field(
        None, min_length=2, description="Names of the classes that the verifier is fitted to; null = all."
    )

    def check(self, config: Any) -> None:
        super().check(config)
        if not config.conditional:
            raise ConfigError(
                "policies: verifier compares samples with their requested class, but the samples of this "
                "model have no requested class"
            )

    def select(self, at: At, candidates: Any) -> list[str | None]:
        if self.threshold is None:
            return super().select(at, candidates)
        return [None if p >= self.threshold else self.why for p in self.confidence(at, candidates)]

    def pick(self, at: At, candidates: Any, n: int, group: str) -> np.ndarray:
        return np.argsort(-self.confidence(at, candidates), kind="stable")[:n]

    def confidence(self, at: At, candidates: Any) -> np.ndarray:
        """The probability of the requested class of each candidate, float64 [n]."""
        if candidates.labels is None:
            raise ConfigError(
                "policies: verifier compares samples with their requested class, but these samples have none"
            )
        extractor = at.extractor(self.extractor)
        judge = candidates.once(("verifier", at.position), lambda: self.fit(at, candidates, extractor))
        return judge.probabilities(candidates.features(extractor)).numpy()[
            np.arange(len(candidates)), candidates.labels
        ]

    def fit(self, at: At, candidates: Any, extractor: Any) -> Any:
        """The fitted verifier. Raises ConfigError for unknown classes and MeasureError for too few images."""
        (features, labels), known = candidates.real(extractor), candidates.run.about["classes"]
        if labels is None:
            raise ConfigError(
                "policies: verifier is fitted to labelled real images, but the real images have no labels"
            )
        unknown = [name for name in self.classes or [] if name not in known]
        if unknown:
            raise ConfigError(
                f"policies: verifier: '{unknown[0]}' is not one of the classes {', '.join(known[:20])}"
            )
        seed = lab_seed(at.config.seed, at.config.lab)
        order = numpy_generator("verifier", seed, at.position).permutation(
            len(labels)
        )  # the same in every generation
        rows = np.sort(order[: part(self.real_share, len(labels))])
        if self.classes is not None:
            rows = rows[np.isin(labels[rows], [known.index(name) for name in self.classes])]
        return Judge.fit(features[torch.from_numpy(rows)], torch.from_numpy(labels[rows]), len(known))

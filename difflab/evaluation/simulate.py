"""Simulated collapse: real images changed in a known way and degree, to test measures and diagnoses on.

    changed = simulate("tails_cut", images, labels, degree=0.5, count=300, seed=0)
    changed = simulate("blurred+swapped", images, labels, degree=0.8, count=300, seed=0)

The kinds are in `damage_content` (what images show), `damage_look` (how they look) and `damage_class` (damage
to one class only). A new kind is one function under ``@kind`` (`difflab.evaluation.damage`). A diagnosis must
not raise an alarm for the kinds in `HARMLESS`.
"""

from __future__ import annotations

import numpy as np

from difflab.core.errors import DataError
from difflab.core.seeds import numpy_generator
from difflab.evaluation.damage import KINDS, ORDER, TOPICS, Labelled, Pool
from difflab.evaluation.damage_class import struck_class
from difflab.evaluation.damage_content import HARMLESS
from difflab.evaluation.damage_look import SMALLEST

__all__ = ["HARMLESS", "KINDS", "SMALLEST", "parts_of", "simulate", "struck_class"]


def simulate(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    degree: float,
    count: int,
    seed: int = 0,
    train: Labelled | None = None,
    reference: Labelled | None = None,
) -> Labelled:
    """Draw `count` real images and change them in the way `name`. The result depends on the arguments alone.

    Args:
        name: the kind of change, or two kinds such as "blurred+swapped". The second kind is then applied to
            the result of the first. The order in the name does not matter: images are chosen first, then
            labels are changed, then the look.
        images, labels: real images uint8 [n, H, W, C] to draw from, and their classes int64 [n].
        degree: of the change, in (0, 1]; of both kinds in a mixture.
        count: number of images; `fewer` returns fewer.
        seed: of all randomness. A damage to one class (`one_class_...`) changes the class
            `struck_class(labels, count, seed)`.
        train: images that a model was trained on, with their classes; needed by `copied`.
        reference: images that the result is to be compared with, with their classes; needed by `overlapping`.

    Returns images and the classes they were asked for. Raises DataError for an unknown name, a mixture of
    kinds that cannot be told apart, a degree outside (0, 1], too few images, or arrays of other shapes.

    >>> images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.array([0, 0, 0, 1, 1, 1])
    >>> [part.shape for part in simulate("nothing", images, labels, 0.5, count=4)]
    [(4, 8, 8, 3), (4,)]
    """
    names = parts_of(name)
    if not 0 < degree <= 1:
        raise DataError(f"degree is {degree}; it has to be above 0 and at most 1")
    if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != (len(images),):
        raise DataError(
            "simulate needs uint8 images [n, H, W, C] and labels [n], "
            f"got {images.dtype} {images.shape} and {labels.shape}"
        )
    struck = struck_class(labels, count, seed)
    for part in names:
        rng = numpy_generator("simulate", part, seed)
        pool = Pool(images, labels, degree, count, rng, train, reference, struck)
        images, labels = KINDS[part](pool)
    return images, labels


def parts_of(name: str) -> list[str]:
    """The one or two kinds of `name`, in the order in which they are applied.

    Raises DataError for an unknown kind, and for a mixture that makes no sense: of more than two kinds, of
    two kinds that change the same thing, or with a kind that is harmless, about copies or about one class.

    >>> parts_of("blurred+swapped")
    ['swapped', 'blurred']
    """
    names = name.split("+")
    for part in names:
        if part not in KINDS:
            raise DataError(f"there is no simulated change '{part}'; known: {', '.join(KINDS)}")
    if len(names) == 1:
        return names
    if len(names) > 2:
        raise DataError(f"'{name}' mixes {len(names)} kinds; a mixture has two")
    for part in names:
        if TOPICS[part] not in ORDER:
            mixed = [known for known in KINDS if TOPICS[known] in ORDER]
            raise DataError(f"{part} cannot be mixed; kinds that can: {', '.join(mixed)}")
    first, second = sorted(names, key=lambda part: ORDER.index(TOPICS[part]))
    if TOPICS[first] == TOPICS[second]:
        raise DataError(
            f"'{name}' mixes two changes of {TOPICS[first]}; take kinds that change different things"
        )
    return [first, second]

"""The conditions of samples: the classes and captions of a generation's samples, and those of the probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from difflab.core.errors import ConfigError
from difflab.core.seeds import numpy_generator
from difflab.core.size import Size
from difflab.runs.run import Run
from difflab.runs.sizes import first_size

UNCONDITIONAL_PROBE = 8  # columns of the probe of an unconditional model


@dataclass(frozen=True)
class Conditions:
    """What n samples are conditioned on.

    Attributes:
        conditions: the inputs of the model, int64 [n]: classes, or positions in the list of captions.
        labels: the class of each sample, int64 [n]; None = the real set has no classes.
        classes: the names of the classes, [n], or None.
        prompts: the captions, [n]; None = the model is conditioned on classes.
        images: positions in training set 0 of the images whose classes, captions and sizes the samples have,
            int64 [n], or None.
    """

    conditions: np.ndarray
    labels: np.ndarray | None
    classes: list[str] | None
    prompts: list[str] | None
    images: np.ndarray | None = None

    @classmethod
    def named(
        cls,
        run: Run,
        conditions: np.ndarray,
        labels: np.ndarray | None,
        captions: np.ndarray | None,
        images: np.ndarray | None = None,
    ) -> Conditions:
        """Conditions whose class names and captions are looked up in the run.

        Args:
            labels: classes, int64 [n], or None.
            captions: positions in the list of captions, int64 [n], or None.
        """
        class_names, prompts = None, None
        if labels is not None:
            names = run.about["classes"]
            class_names = [names[label] for label in labels.tolist()]
        if captions is not None:
            known_prompts = run.prompts
            prompts = [known_prompts[caption] for caption in captions.tolist()]
        return cls(conditions, labels, class_names, prompts, images)

    def part(self, span: range) -> Conditions:
        """The conditions of the samples in `span`."""
        part = slice(span.start, span.stop)
        return Conditions(
            self.conditions[part],
            None if self.labels is None else self.labels[part],
            self.classes and self.classes[part],
            self.prompts and self.prompts[part],
            None if self.images is None else self.images[part],
        )

    def columns(self) -> dict[str, Any]:
        """The columns of the ledger. A column that would be None is left out."""
        labels = None if self.labels is None else self.labels.tolist()
        columns = {"label": labels, "class": self.classes, "prompt": self.prompts}
        return {name: values for name, values in columns.items() if values is not None}


# --------------------------------------------------------------------------------------------------- samples
def sample_conditions(run: Run, generation: int, count: int) -> Conditions:
    """The conditions of `count` samples, in random order.

    Classes are as frequent as in training set 0, or equally frequent (sample.conditions=balanced), with exact
    quotas. The samples of a class take the captions of its images in a fixed order, again from the start when
    all are used. So the captions are the same in every generation. Without classes, the samples take the
    captions of all images in this way.

    Raises ConfigError if a class would get no sample, because the experiment itself would remove it.
    """
    labels = _quotas(run, generation, count)
    if not run.config.text:
        assert labels is not None
        images = template_images(run, generation, count, labels) if run.sizes else None
        return Conditions.named(run, labels, labels, None, images)
    images = template_images(run, generation, count, labels)
    conditions = run.conditions(run.real)[images]  # type: ignore[index]
    return Conditions.named(run, conditions, labels, conditions, images)


def template_images(run: Run, generation: int, count: int, labels: np.ndarray | None) -> np.ndarray:
    """Positions in training set 0 of the images whose captions and sizes the samples take: int64 [count].

    The samples of a class take its images in a fixed order, again from the start when all are used. Without
    classes (labels is None) the samples take all images in this way, in random order. Images of several sizes
    are in an order in which each size is spread evenly, so that also few samples have the sizes of the class.
    """
    real_labels, n0 = run.real.labels(), first_size(run.config, run.about["n_train"])
    order = numpy_generator("captions", run.config.seed).permutation(n0)

    bucket = run.real.bucket if run.sizes else None

    def in_turn(images: np.ndarray, label: int | None) -> np.ndarray:
        if bucket is None:
            return images
        start = numpy_generator("sizes", run.config.seed, label).integers(len(images))
        return np.roll(spread(images, bucket[images]), -int(start))

    if labels is None or real_labels is None:
        shuffled = numpy_generator("asked", run.config.seed, generation)
        return shuffled.permutation(np.resize(in_turn(order, None), count))
    images = np.empty(count, dtype=np.int64)
    for label in np.unique(labels).tolist():
        of_class = in_turn(order[real_labels[order] == label], label)
        images[labels == label] = np.resize(of_class, int((labels == label).sum()))
    return images


def spread(images: np.ndarray, bucket: np.ndarray) -> np.ndarray:
    """The images in an order in which those of each bucket are spread evenly, [n].

    Image k of the n in its bucket comes at the share (k + 1/2) / n of the way.

    >>> spread(np.arange(6), np.array([0, 0, 0, 0, 1, 1])).tolist()
    [0, 1, 4, 2, 3, 5]
    """
    places = np.empty(len(images))
    for of_bucket in (bucket == b for b in np.unique(bucket)):
        n = int(of_bucket.sum())
        places[of_bucket] = (np.arange(n) + 0.5) / n
    return images[np.argsort(places, kind="stable")]


def sample_sizes(run: Run, generation: int, count: int, conditions: Conditions | None) -> list[Size] | None:
    """The size (H, W) of each of `count` samples, as often as in training set 0; None = all have one size.

    A sample has the size of the image whose class or caption it has (`template_images`).
    """
    if not run.sizes:
        return None
    images = conditions.images if conditions else template_images(run, generation, count, None)
    return _sizes_of(run, images)


def _sizes_of(run: Run, images: np.ndarray | None) -> list[Size]:
    """The sizes (H, W) of real images at positions int64 [n]."""
    assert images is not None
    sizes = run.sizes
    return [sizes[i] for i in run.real.bucket[images]]


def _quotas(run: Run, generation: int, count: int) -> np.ndarray | None:
    """The class of each sample: int64 [count].

    None for a text-to-image model whose real set has no classes.
    """
    real_labels = run.real.labels()
    if real_labels is None:
        if run.config.text:
            return None
        raise ConfigError(
            "a conditional model needs a labelled real set; for this one set model.conditional=false "
            "sample.guidance_scale=1"
        )
    classes = run.about["classes"]
    n0 = first_size(run.config, run.about["n_train"])
    share = np.bincount(real_labels[:n0], minlength=len(classes)).astype(float)
    if run.config.sample.conditions == "balanced":
        share = (share > 0).astype(float)  # the model has not learnt classes without training images
    share /= share.sum()
    quota = np.floor(share * count).astype(int)
    largest_remainders = np.argsort(-(share * count - quota), kind="stable")[: count - quota.sum()]
    quota[largest_remainders] += 1
    if (quota[share > 0] == 0).any():
        without = classes[int(np.argmax((quota == 0) & (share > 0)))]
        instead = " or use sample.conditions=balanced" if run.config.sample.conditions == "real" else ""
        raise ConfigError(
            f"sample.count {count} is too small to ask for class '{without}' even once; raise it{instead}"
        )
    labels = np.repeat(np.arange(len(classes)), quota)
    return numpy_generator("asked", run.config.seed, generation).permutation(labels)


# ----------------------------------------------------------------------------------------------------- probe
def probe_conditions(run: Run) -> Conditions | None:
    """The conditions of the probe, with `per_condition` images of each; None = unconditional.

    Captions are those of probe.prompts, or a random choice from training set 0. Half of the classes are the
    most frequent ones of training set 0 and half are the rarest ones, sorted by number.
    """
    if not run.config.conditional:
        return None
    return _probe_captions(run) if run.config.text else _probe_classes(run)


def probe_count(run: Run) -> int:
    """The number of images in the probe."""
    conditions = probe_conditions(run)
    if conditions is None:
        return UNCONDITIONAL_PROBE * run.config.probe.per_condition
    return len(conditions.conditions)


def probe_sizes(run: Run, conditions: Conditions | None) -> list[Size] | None:
    """The size (H, W) of each image of the probe; None = all images have one size.

    Image k of a class or caption has the size of its k-th image in training set 0.
    """
    if not run.sizes:
        return None
    n0 = first_size(run.config, run.about["n_train"])
    if conditions is None:
        return _sizes_of(run, np.arange(UNCONDITIONAL_PROBE * run.config.probe.per_condition) % n0)
    known, per = run.conditions(run.real), run.config.probe.per_condition
    assert known is not None
    images: list[int] = []
    for condition in conditions.conditions[::per]:
        of_condition = np.flatnonzero(known[:n0] == condition)
        images += np.resize(of_condition if len(of_condition) else np.arange(n0), per).tolist()
    return _sizes_of(run, np.array(images))


def _probe_captions(run: Run) -> Conditions:
    probe, n0 = run.config.probe, first_size(run.config, run.about["n_train"])
    captions = run.conditions(run.real)
    assert captions is not None
    if probe.prompts is not None:
        position = {prompt: i for i, prompt in enumerate(run.prompts)}
        chosen = np.array([position[prompt] for prompt in probe.prompts])
    else:
        order = numpy_generator("probe", run.config.seed).permutation(np.unique(captions[:n0]))
        chosen = np.sort(order[: probe.conditions])
    conditions = np.repeat(chosen, probe.per_condition)
    labels = real_labels = run.real.labels()
    if real_labels is not None:
        first_image = [int(np.argmax(captions == condition)) for condition in conditions]
        labels = real_labels[first_image]
    return Conditions.named(run, conditions, labels, conditions)


def _probe_classes(run: Run) -> Conditions | None:
    probe, n0 = run.config.probe, first_size(run.config, run.about["n_train"])
    real_labels = run.real.labels()
    if real_labels is None:
        return None
    frequency = np.bincount(real_labels[:n0], minlength=len(run.about["classes"]))
    trained = int(np.count_nonzero(frequency))
    ranked = np.argsort(-frequency, kind="stable")[:trained]
    shown = min(trained, probe.conditions)
    most_frequent, rarest = ranked[: -(-shown // 2)], ranked[trained - shown // 2 :]
    labels = np.repeat(np.sort(np.concatenate([most_frequent, rarest])), probe.per_condition)
    return Conditions.named(run, labels, labels, None)

"""Numbers of images that follow from the config and the size of the real set: training sets, measures."""

from __future__ import annotations

from difflab.config import Config
from difflab.core.errors import ConfigError, MeasureError
from difflab.runs.folder import RunFolder


def first_size(config: Config, n_train: int) -> int:
    """The size n0 of training set 0.

    Raises ConfigError if data.train_size is larger than the train split.
    """
    n0 = config.data.train_size or n_train
    if n0 > n_train:
        raise ConfigError(
            f"data.train_size asks for {n0} real images, the train split has {n_train}; lower "
            "data.train_size or data.held_out"
        )
    return n0


def real_count(config: Config, n0: int) -> int:
    """The number of real images in each training set t >= 1 of the regimes fixed_real and fresh_real."""
    share = 0.5 if config.regime.real_fraction is None else config.regime.real_fraction
    return round(share * (config.regime.set_size or n0))


def fresh_needed(config: Config, n0: int) -> int:
    """The number of unseen real images that the regime and the policies draw in the whole chain."""
    needed = 0
    if config.regime.name == "fresh_real":
        needed = real_count(config, n0) * config.generations
    return needed + sum(policy.fresh(config, n0) for policy in config.policies)


def measured_count(run: RunFolder) -> int:
    """The number of images on each side of every measure and of its floor.

    It is the same in all generations, also in those that are added later.

    Raises MeasureError if measure.count is larger than the number of samples, of train images or of held-out
    images.
    """
    about, config = run.about, run.config
    counts = config.sample.count if isinstance(config.sample.count, list) else [config.sample.count]
    most = min(about["n_train"], about["n_held_out"], *counts)
    wanted = config.measure.count or most
    if wanted > most:
        raise MeasureError(
            f"measure.count {wanted} is more than the {most} images that samples, train split and held-out "
            "all have"
        )
    return wanted

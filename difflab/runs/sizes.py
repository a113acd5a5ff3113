"""How many images a config asks for: sizes of training sets that follow from the config and the real set
alone.
"""

from __future__ import annotations

from difflab.config import Config
from difflab.core.errors import ConfigError, MeasureError
from difflab.runs.folder import RunFolder


def first_size(config: Config, n_train: int) -> int:
    """n0, the size of generation 0's training set."""
    n0 = config.data.train_size or n_train
    if n0 > n_train:
        raise ConfigError(
            f"data.train_size asks for {n0} real images, the train split has {n_train}; lower "
            "data.train_size or data.held_out"
        )
    return n0


def real_count(config: Config, n0: int) -> int:
    """Real images in each training set t >= 1 of fixed_real and fresh_real."""
    share = 0.5 if config.regime.real_fraction is None else config.regime.real_fraction
    return round(share * (config.regime.set_size or n0))


def fresh_needed(config: Config, n0: int) -> int:
    """Unseen real images that the whole chain will draw."""
    own = real_count(config, n0) * config.generations if config.regime.name == "fresh_real" else 0
    return own + sum(policy.fresh(config, n0) for policy in config.policies)


def measured_count(run: RunFolder) -> int:
    """Images on either side of every measure and of its floor: the same in all generations, also in later
    extensions.

    Raises MeasureError where measure.count is more than samples, train split and held-out images all have.
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

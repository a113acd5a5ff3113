"""What does not go together with images of several sizes (data.buckets)."""

from __future__ import annotations

from difflab.config import Config
from difflab.core.errors import ConfigError

ONE_SIZE = ("pixels", "fitted")
"""Extractors whose features compare images of one size."""
POLICIES = ("early_stop",)
"""Policies that pass images of a fixed choice through the network in one batch."""


def check_buckets(config: Config) -> None:
    """Raise ConfigError for settings that need images of one size, if the config has data.buckets."""
    if config.data.buckets is None:
        return
    found = [spec for spec in config.measure.extractors if spec in ONE_SIZE]
    if found:
        raise ConfigError(
            f"measure.extractors: '{found[0]}' compares images of one size, and data.buckets gives several; "
            "use an extractor that resizes images, such as efficientnet-lite0, inception or open_clip:NAME"
        )
    names = [policy.policy for policy in config.policies if policy.policy in POLICIES]
    if names:
        raise ConfigError(
            f"policies: {names[0]} needs images of one size; use data.image_size, not data.buckets"
        )

"""Drop images that are flagged as degenerate."""

from __future__ import annotations

from difflab.config.policy_registry import policy
from difflab.policies.interface import At, Policy


@policy("unflagged")
class Unflagged(Policy):
    """Drops images of a single colour, such as black images.

    The measure flagged_share counts them with or without this policy.
    """

    def select(self, at: At, candidates) -> list[str | None]:  # type: ignore[no-untyped-def]
        return candidates.rows["flag"].to_pylist()

"""Leave out images that are flagged as degenerate."""

from __future__ import annotations

from difflab.config.policy_registry import policy
from difflab.policies.interface import At, Policy


@policy("unflagged")
class Unflagged(Policy):
    """Images of one colour, a black one say, may not train. Such failures are counted in any case (measure flagged_share)."""

    def select(self, at: At, candidates) -> list[str | None]:  # type: ignore[no-untyped-def]
        return candidates.rows["flag"].to_pylist()

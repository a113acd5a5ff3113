"""What was decided for a field of a config whose value is auto."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A decision.

    Attributes:
        key: the field, for example "train.precision".
        value: the value instead of auto: of a precision "no", "tf32", "bf16" or "fp16", of compile true or
            false.
        reason: why, for people.
    """

    key: str
    value: str | bool
    reason: str

    def __str__(self) -> str:
        return f"{self.key}=auto: {shown(self.value)}, {self.reason}"


def shown(value: str | bool) -> str:
    """A value as in a config, "no" with what it means."""
    if value == "no":
        return "no (float32)"
    return str(value).lower() if isinstance(value, bool) else value

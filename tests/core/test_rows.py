from __future__ import annotations

from difflab.core.rows import RowKind


def test_a_label_is_the_title_or_the_name_in_words() -> None:
    plain = RowKind("train_loss", unit="loss", better="none", about="Mean loss.", topic="Training")
    assert plain.label == "train loss" and plain.counts == "images"
    titled = RowKind("sd", unit="", better="real", about="", topic="", title="standard deviation")
    assert titled.label == "standard deviation"

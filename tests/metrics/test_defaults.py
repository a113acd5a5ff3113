from __future__ import annotations

from difflab.metrics import METRICS
from difflab.metrics.defaults import COMMON, CONCEPTS, MEMORY, TEXTURE


def test_every_default_is_a_measure_that_needs_what_its_list_says():
    assert {METRICS[name].needs for name in COMMON} == {"features"}
    assert {METRICS[name].extractor for name in TEXTURE} == {"texture"}
    assert {METRICS[name].needs for name in MEMORY} == {"train"}
    assert {METRICS[name].needs for name in CONCEPTS} <= {"concepts", "prompts"}
    listed = [*COMMON, *TEXTURE, *CONCEPTS, *MEMORY]
    assert len(set(listed)) == len(listed)

from __future__ import annotations

from chains import config, ran

from difflab.config.policy_registry import KNOWN, policy
from difflab.policies.interface import Policy
from difflab.policies.watch import Moment, Watch


class Log(Watch):
    """Writes down what the training loop calls, and stops the training after three steps."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def adjust(self, now: Moment) -> None:
        self.calls.append(("adjust", now.images_seen))

    def step(self, now: Moment) -> bool:
        assert now.average.weights.keys() <= now.weights.keys()
        self.calls.append(("step", now.images_seen))
        return now.images_seen >= 3 * now.train.batch_size

    def end(self, weights: dict) -> None:
        self.calls.append(("end", len(weights) > 0))

    def record(self) -> dict:
        return {"log": self.calls}


def test_a_watch_that_overrides_nothing_changes_nothing() -> None:
    watch = Watch()
    assert (watch.state(), watch.record()) == ({}, {})


def test_the_training_loop_calls_a_watch_after_each_step_and_stops_when_it_says_so(tmp_path) -> None:
    @policy("log_of_a_test")
    class LogPolicy(Policy):
        """Watches a training."""

        def trainer(self, at, model):
            return Log()

    try:
        run = ran(config("log_of_a_test", generations=0), tmp_path / "run")
    finally:
        del KNOWN["log_of_a_test"]
    seen = run.config.train.batch_size
    calls = [(what, k * seen) for k in (1, 2, 3) for what in ("adjust", "step")]
    assert [tuple(call) for call in run.training(0)["log"]] == [*calls, ("end", True)]

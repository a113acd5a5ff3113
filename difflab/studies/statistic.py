"""The statistic that decides a claim, and its verdict.

A statistic is an expression over the arms of a sweep. It is evaluated for each seed, for example

    at('fresh', 'recall', 5) - at('replace', 'recall', 5)

The verdict follows from Student's 95% interval over seeds. It is "reproduced" if the whole interval lies in
the region `confirm`, "refuted here" if the whole interval lies in the region `refute`, else "cannot tell".
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from difflab.config import Spec
from difflab.core.errors import ConfigError
from difflab.runs.run import Run
from difflab.studies.compare_runs import better_of, interval, values_of, worse

REPRODUCED, REFUTED, UNKNOWN = "reproduced", "refuted here", "cannot tell"
REGION = re.compile(r"(>|<|>=|<=)\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)")
OPERATORS: dict[Any, Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}
METHODS = ("at", "change", "mean", "slope", "onset", "recovery")
"""Methods of `Seed` that an expression may call."""
FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs, "log": math.log}


class Statistic(Spec):
    """An expression with one value per seed, and the regions that confirm or refute the claim."""

    value: str = Field(
        description="Expression over arms, with one value per seed; see difflab/studies/statistic.py."
    )
    confirm: str = Field(description="Region that confirms the claim, such as '> 0.05'.")
    refute: str = Field(description="Region that refutes the claim, such as '< 0'; disjoint from confirm.")
    unit: str = Field("", description="Unit of the value, which is only displayed.")


class Seed:
    """The runs of one seed. An expression can call the methods `at` to `recovery`.

    Measures have the names of metrics.jsonl. 'measure@extractor' selects one of several extractors; without
    it, the first extractor of the measure is used. The value of an ecosystem is the mean over its labs.

    Args:
        runs: run by arm.
        last: the last generation that is read, by arm; None = all generations are read.
    """

    def __init__(self, runs: dict[str, Run], last: dict[str, int] | None = None):
        self.series: dict[str, dict[tuple[str, int], float]] = {}
        for arm, run in runs.items():
            values = self.series.setdefault(arm, {})
            for (generation, metric, extractor), (value, _) in values_of(run).items():
                if last is None or generation <= last[arm]:
                    values[f"{metric}@{extractor}", generation] = value
                    values.setdefault((metric, generation), value)

    def curve(self, arm: str, metric: str) -> list[float]:
        """The values of a measure, one per generation; NaN if a generation has no value.

        Raises ConfigError for an unknown arm or measure.
        """
        if arm not in self.series:
            raise ConfigError(f"a statistic names the arm '{arm}'; there are: {', '.join(self.series)}")
        values = {t: value for (name, t), value in self.series[arm].items() if name == metric}
        if not values:
            raise ConfigError(f"a statistic names the measure '{metric}', which was not taken in arm '{arm}'")
        return [values.get(t, math.nan) for t in range(max(values) + 1)]

    def at(self, arm: str, metric: str, generation: float) -> float:
        """The value of a measure in one generation; -1 = the last generation."""
        return self.curve(arm, metric)[int(generation)]

    def change(self, arm: str, metric: str, generation: float = -1) -> float:
        """The value in one generation minus the value in generation 0; -1 = the last generation."""
        return self.at(arm, metric, generation) - self.at(arm, metric, 0)

    def mean(self, arm: str, metric: str, first: float, last: float) -> float:
        """The mean over the generations `first` to `last`, both included."""
        return float(np.mean(self.curve(arm, metric)[int(first) : int(last) + 1]))

    def slope(self, arm: str, metric: str, first: float = 0) -> float:
        """The least-squares slope per generation, from generation `first` to the last one."""
        values = self.curve(arm, metric)[int(first) :]
        return float(np.polyfit(np.arange(len(values)), values, 1)[0])

    def onset(self, arm: str, metric: str, share: float) -> float:
        """The first generation whose value differs by more than `share` of generation 0's value from it.

        If there is none, the result is the last generation + 1. If generation 0's value is 0, it is NaN.
        """
        values = self.curve(arm, metric)
        first = values[0]
        if not first:
            return math.nan
        changed = (t for t, value in enumerate(values) if abs(value - first) > share * abs(first))
        return float(next(changed, len(values)))

    def recovery(self, arm: str, metric: str, first: float, tolerance: float) -> float:
        """The number of generations after `first` until the value is at most `tolerance` worse than in
        generation 0.

        If this never happens, the result is the number of generations after `first` + 1.
        """
        values, better = self.curve(arm, metric), better_of(metric)
        later = values[int(first) + 1 :]
        recovered = (t for t, value in enumerate(later, 1) if worse(better, value - values[0]) <= tolerance)
        return float(next(recovered, len(later) + 1))

    def evaluate(self, text: str) -> float:
        """The value of an expression.

        It may contain numbers, + - * / **, the methods above, and min, max, abs and log. Raises ConfigError
        for anything else, and if the expression has no value.
        """
        try:
            return float(self._value(ast.parse(text, mode="eval"), text))
        except (SyntaxError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise ConfigError(f"statistic '{text}' has no value: {error}") from error

    def _value(self, node: Any, text: str) -> Any:
        """The value of one node of the expression `text`."""
        if isinstance(node, ast.Expression):
            return self._value(node.body, text)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str)):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](self._value(node.left, text), self._value(node.right, text))
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](self._value(node.operand, text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            name = node.func.id
            function = getattr(self, name) if name in METHODS else FUNCTIONS.get(name)
            if function is not None:
                return function(*(self._value(argument, text) for argument in node.args))
        known = ", ".join((*METHODS, *FUNCTIONS))
        raise ConfigError(
            f"statistic '{text}': an expression may contain only numbers, + - * / ** and {known}"
        )


def inside(low: float, high: float, region: str) -> bool:
    """Whether the interval from `low` to `high` lies in a region such as '> 0.05'.

    Raises ConfigError for a region of another form.
    """
    match = REGION.fullmatch(region.strip())
    if not match:
        raise ConfigError(f"region '{region}' is not of the form '> 0.05' or '< 0'")
    sign, bound = match.group(1)[0], float(match.group(2))
    return low > bound if sign == ">" else high < bound


def judged(values: Sequence[float], statistic: Statistic) -> dict[str, Any]:
    """The verdict of a statistic from its values, one per seed.

    Returns a dict with the keys effect (the mean over seeds), ci_low, ci_high, seeds and verdict. If there is
    only one seed, or a value is NaN, the interval is None and the verdict is "cannot tell".
    """
    effect = float(np.mean(values)) if len(values) else math.nan
    result = {"effect": effect, "ci_low": None, "ci_high": None, "seeds": len(values), "verdict": UNKNOWN}
    if not np.isfinite(values).all():
        return result
    bounds = interval(values)
    if bounds is None:
        return result
    low, high = bounds
    result |= {"ci_low": low, "ci_high": high}
    if inside(low, high, statistic.confirm):
        return result | {"verdict": REPRODUCED}
    if inside(low, high, statistic.refute):
        return result | {"verdict": REFUTED}
    return result


def overall(verdicts: Sequence[str]) -> str:
    """The joint verdict of several: "refuted here" if any is, "reproduced" if all are, else "cannot tell"."""
    if REFUTED in verdicts:
        return REFUTED
    if verdicts and all(verdict == REPRODUCED for verdict in verdicts):
        return REPRODUCED
    return UNKNOWN

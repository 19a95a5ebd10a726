"""What a table can show: the key of a quantity, its heading and formula, how it is written, which way is better.

Metrics bring their own columns, and so do diagnostics of one's own, which a record describes; the others are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal

from ong.errors import UserError
from ong.metrics import METRICS, Metric
from ong.quantities import Quantity
from ong.report.intervals import Estimate
from ong.report.runs import Runs
from ong.report.text import printable

__all__ = ["COSTS", "MISSING", "Column", "column", "columns", "metric_columns", "number"]

MISSING = "–"
"""What stands where a quantity is undefined or was not measured."""


def number(value: float, digits: int = 3) -> str:
    """Write a number with a true minus sign and no negative zero."""
    return _written(f".{digits}f", value)


def _written(form: str, value: float) -> str:
    """Write a number in a form of Python's, such as ``.3f``, ``.1%`` or ``.1e``."""
    if math.isnan(value):
        return MISSING
    text = format(value, form)
    if not any(digit in text for digit in "123456789"):
        text = text.removeprefix("-")
    return text.replace("-", "−")


_NAMES = ("benchmark", "strategy", "seed", "needs", "task")  # of columns of the CSV and of tables by task


@dataclass(frozen=True)
class Column:
    """A quantity of a run and how tables show it.

    Attributes:
        key: its name in records and CSV files.
        title: its heading.
        about: what it is, in a few words.
        formula: how it is computed.
        write: makes a cell of a value.
        better: whether more or less of it is better, between strategies that compete; None where they do not.
        interval: whether its 95% t-interval over seeds is shown.
        on_request: whether tables leave it out until it is asked for.
        over: what a run has of a quantity kept by task: the mean, the last or the largest over tasks.
    """

    key: str
    title: str
    about: str
    formula: str = ""
    write: Callable[[float], str] = number
    better: Literal["higher", "lower"] | None = None
    interval: bool = True
    on_request: bool = False
    over: Literal["mean", "last", "max"] = "mean"

    def text(self, estimate: Estimate) -> str:
        """Write an estimate: ``0.935 ± 0.004``; without an interval if there is none or it says nothing."""
        mean = self.write(estimate.mean)
        if not self.interval or math.isnan(estimate.half_width):
            return mean
        return f"{mean} ± {self.write(estimate.half_width)}"

    def best(self, means: dict[str, float]) -> set[str]:
        """Name the rows that are best as written, ties included; none if no direction is better."""
        defined = {name: mean for name, mean in means.items() if not math.isnan(mean)}
        if self.better is None or not defined:
            return set()
        extreme = (max if self.better == "higher" else min)(defined.values())
        return {name for name, mean in defined.items() if self.write(mean) == self.write(extreme)}


def _seconds(value: float) -> str:
    return number(value, digits=1 if value < 100 else 0)


def _bytes(value: float) -> str:
    if math.isnan(value):
        return MISSING
    power = min(int(math.log10(max(value, 1.0)) / 3), 3)
    value /= 1000**power
    unit = ("B", "kB", "MB", "GB")[power]
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _whole(value: float) -> str:
    return number(value, digits=0)


def _scientific(value: float) -> str:
    return MISSING if math.isnan(value) else "0" if value == 0 else f"{value:.1e}".replace("-", "−")


_CERTIFICATES = tuple(
    Column(f"certificate_{name}", title, about, f"mean_t {formula}", _scientific, interval=False, on_request=True)
    for name, title, about, formula in (
        ("promised", "Promised", "squared change of old logits, in the method's metric", "ΔᵀFΔ/t"),
        ("exact", "Exact", "squared change of old logits, first order at the last task's start", "‖J(θ_s)Δ‖²"),
        ("first_order", "First order", "squared change of old logits, first order at this start", "‖J(θ_{t−1})Δ‖²"),
        ("nonlinear", "Nonlinear", "what is not of first order", "‖Δh − J(θ_s)Δ‖²"),
        ("measured", "Measured", "squared change of old training examples' logits in a task", "‖Δh‖²"),
        ("measured_test", "Measured, test", "squared change of old test examples' logits in a task", "‖Δh‖²"),
        ("divergence", "Promised KL", "2 KL of old outputs, in the method's metric", "ΔᵀFΔ/t"),
        ("divergence_measured", "Measured KL", "2 KL of old outputs in a task", "2 KL(old ‖ new)"),
        ("distance", "Distance bound", "of old test examples' true logits", "dist²(∇h_y, span G) ‖Δ‖²_M"),
        ("distance_measured", "True logit, test", "change of old test examples' true logits in a task", "(Δh_y)²"),
        ("stored", "Stored bound", "of stored examples' true logits", "(½ max|q″|)²"),
        ("stored_measured", "True logit, stored", "change of stored examples' true logits since their task", "(Δh_y)²"),
    )
)  # fmt: skip


_MEASURED = (
    Column("train_seconds", "Train s", "seconds of training, all tasks", "Σ_t seconds_t", _seconds, interval=False),
    Column(
        "memory_bytes", "Memory", "state kept between tasks, the largest", "max_t bytes_t", _bytes, interval=False,
        over="max",
    ),
    Column(
        "leak", "Leak", "share of a step that moves stored old outputs at first order; v is the step, Q_G an "
        "orthonormal basis of their gradients", "mean_t ‖Q_Gᵀv‖/‖v‖", _scientific, interval=False,
    ),
    Column(
        "leak_unseen", "Leak, unseen", "the same of as many old training examples that are not stored",
        "mean_t ‖Q_Gᵀv‖/‖v‖", _scientific, interval=False, on_request=True,
    ),
    Column(
        "descent_cosine", "Descent cos", "between a step v and the gradient g of the loss; below 0 the loss ascends",
        "mean_t gᵀv/(‖g‖‖v‖)", interval=False,
    ),
    Column(
        "rank", "Rank", "independent directions projected off, last task", "rank(GᵀG)", _whole, interval=False,
        over="last",
    ),
    Column(
        "space_left", "Space left", "share of the parameters' space that is left to learn in, last task",
        "1 − rank/parameters", interval=False, over="last",
    ),
    Column(
        "condition", "Condition", "of the Gram that is projected with", "mean_t λ_max/λ_min", _scientific,
        interval=False, on_request=True,
    ),
    Column(
        "directions", "Directions", "gradients kept, last task", "columns of G", _whole, interval=False,
        on_request=True, over="last",
    ),
    Column(
        "directions_dropped", "Dropped", "directions that bounds of memory cost, last task", "", _whole,
        interval=False, on_request=True, over="last",
    ),
    Column(
        "directions_captured", "Captured", "share of the last task's directions that the kept ones span", "",
        interval=False, on_request=True, over="last",
    ),
    Column(
        "evaluate_seconds", "Evaluate s", "seconds of evaluation, all rows of R", "Σ seconds", _seconds,
        interval=False, on_request=True,
    ),
    Column("total_seconds", "Total s", "seconds from start to end", "", _seconds, interval=False, on_request=True),
    *_CERTIFICATES,
)  # fmt: skip

COSTS = ("train_seconds", "memory_bytes", "leak", "descent_cosine", "rank", "space_left")
"""The quantities that are not metrics of R."""


@lru_cache(maxsize=16)
def columns(runs: Runs | None = None) -> dict[str, Column]:
    """Return every column by key, in the order of every table; the metrics first.

    Args:
        runs: whose; with them come the metrics that were asked for beside the usual ones, and the diagnostics of one's
            own that their records describe.

    Raises:
        UserError: a metric has the name of another quantity, or its distribution fails to load it.
    """
    measured = {c.key: c for c in _MEASURED}
    metrics = {m.name: m for m in (*METRICS.values(), *(runs.metrics if runs else ()))}
    for name in metrics:
        if name in measured or name in _NAMES:
            raise UserError(f"metric '{name}' has the name of another column; give it a name of its own")
    described = {
        key: about
        for record in (runs.records if runs else ())
        for key, about in record.quantities.items()
        if key not in measured and key not in metrics
    }
    found: dict[str, Column] = {}
    made_of = {key: _column(key, about) for key, about in {**metrics, **described}.items()}
    for key in [*metrics, *measured, *described]:
        made = measured.get(key) or made_of[key]
        if any(made.title == other.title for other in found.values()):
            made = replace(made, title=f"{made.title} ({key})")
        found[key] = made
    return found


def _column(key: str, about: Quantity) -> Column:
    title, text, formula = map(printable, (about.title, about.about, about.formula))
    write, hidden = partial(_written, about.form), isinstance(about, Metric) and about.on_request
    return Column(key, title, text, formula, write, better=about.better, on_request=hidden, over=about.over)


def metric_columns(runs: Runs) -> list[Column]:
    """Return those of the metrics, whether or not they are usually shown."""
    names = {*METRICS, *(metric.name for metric in runs.metrics)}
    return [c for key, c in columns(runs).items() if key in names]


def column(key: str, runs: Runs | None = None) -> Column:
    """Return the column of a key; one unknown here (another program's metric) is shown as a plain number."""
    return columns(runs).get(key) or Column(key, _title(key), "", on_request=True)


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize() if "_" in key else key

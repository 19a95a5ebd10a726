"""What a table can show: the key of a quantity, its heading and formula, how it is written, which way is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ong.metrics import FORMULAS
from ong.report.intervals import Estimate

__all__ = ["COLUMNS", "COSTS", "MISSING", "Column", "column", "number"]

MISSING = "–"
"""What stands where a quantity is undefined or was not measured."""


def number(value: float, digits: int = 3) -> str:
    """Write a number with a true minus sign and no negative zero."""
    if math.isnan(value):
        return MISSING
    text = f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


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


def _metric(
    key: str, title: str, about: str, better: Literal["higher", "lower"] | None, hidden: bool = False
) -> Column:
    return Column(key, title, about, FORMULAS[key], better=better, on_request=hidden)


COLUMNS = (
    _metric("ACC", "ACC", "average accuracy at the end", "higher"),
    _metric("learning_accuracy", "Learning acc.", "accuracy on each task just learned", "higher"),
    _metric("BWT", "BWT", "backward transfer", "higher"),
    _metric("forgetting", "Forgetting", "loss from each task's best", "lower"),
    _metric("forgetting_first", "Forgetting (first)", "loss since each task was learned", "lower", hidden=True),
    # Accuracy on a task before it is trained depends on what the tasks share more than on the learner: no bold.
    _metric("FWT", "FWT", "forward transfer", None),
    _metric("intransigence", "Intransigence", "below a net trained on the task alone", "lower"),
    _metric("recovered", "Recovered", "of what forgetting costs, the part won back", "higher"),
    Column("train_seconds", "Train s", "seconds of training, all tasks", "Σ_t seconds_t", _seconds, interval=False),
    Column(
        "memory_bytes", "Memory", "largest state kept between tasks", "max_t bytes_t", _bytes, interval=False,
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
"""Every quantity of a run, in the order of every table; the metrics first."""

COSTS = ("train_seconds", "memory_bytes", "leak", "descent_cosine", "rank", "space_left")
"""The quantities that are not metrics of R."""


def column(key: str) -> Column:
    """Return the column of a key; one unknown here (another program's metric) is shown as a plain number."""
    return next((known for known in COLUMNS if known.key == key), Column(key, _title(key), "", on_request=True))


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize() if "_" in key else key

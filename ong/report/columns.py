"""What a table can show: the key of a quantity, its heading, how it is written, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
    """A quantity of a run and how tables show it."""

    key: str
    title: str
    hint: str
    write: Callable[[float], str] = number
    better: Literal["higher", "lower"] | None = None
    interval: bool = True
    on_request: bool = False

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
    Column(f"certificate_{name}", title, f"{hint}, mean over tasks", _scientific, interval=False, on_request=True)
    for name, title, hint in (
        ("promised", "Promised", "ΔᵀFΔ/t in the method's metric: squared change of old logits"),
        ("exact", "Exact", "‖J(θ_s)Δ‖² of old examples"),
        ("first_order", "First order", "‖J(θ_{t−1})Δ‖² of old examples"),
        ("nonlinear", "Nonlinear", "‖Δh − J(θ_s)Δ‖² of old examples"),
        ("measured", "Measured", "‖Δh‖² of old training examples in a task"),
        ("measured_test", "Measured, test", "‖Δh‖² of old test examples in a task"),
        ("divergence", "Promised KL", "ΔᵀFΔ/t in the method's metric: 2 KL of old outputs"),
        ("divergence_measured", "Measured KL", "2 KL of old outputs in a task"),
        ("distance", "Distance bound", "dist²(∇h_y, span G)‖Δ‖²_M of old test examples"),
        ("distance_measured", "True logit, test", "squared change of old test examples' true logits in a task"),
        ("stored", "Stored bound", "(½ max|q″|)² of stored examples' true logits"),
        ("stored_measured", "True logit, stored", "squared change of stored examples' true logits since their task"),
    )
)

COLUMNS = (
    Column("ACC", "ACC", "average accuracy at the end", better="higher"),
    Column("learning_accuracy", "Learning acc.", "accuracy on each task just learned", better="higher"),
    Column("BWT", "BWT", "backward transfer", better="higher"),
    Column("forgetting", "Forgetting", "loss from each task's best", better="lower"),
    Column(
        "forgetting_first", "Forgetting (first)", "loss since each task was learned", better="lower", on_request=True
    ),
    Column("FWT", "FWT", "forward transfer", better="higher"),
    Column("intransigence", "Intransigence", "below a net trained on the task alone", better="lower"),
    Column("recovered", "Recovered", "of what forgetting costs, the part won back", better="higher"),
    Column("train_seconds", "Train s", "seconds of training, all tasks", _seconds, interval=False),
    Column("memory_bytes", "Memory", "largest state kept between tasks", _bytes, interval=False),
    Column("leak", "Leak", "‖Q_Gᵀv‖/‖v‖, mean over tasks", _scientific, interval=False),
    Column("descent_cosine", "Descent cos", "gᵀv/(‖g‖‖v‖), mean over tasks", interval=False),
    Column("rank", "Rank", "independent directions projected off, last task", _whole, interval=False),
    Column("space_left", "Space left", "1 − rank/parameters, last task", interval=False),
    *_CERTIFICATES,
)
"""Every quantity of a run, in the order of every table; the metrics first."""

COSTS = ("train_seconds", "memory_bytes", "leak", "descent_cosine", "rank", "space_left")
"""The quantities that are not metrics of R."""


def column(key: str) -> Column:
    """Return the column of a key; one unknown here (another program's metric) is shown as a plain number."""
    return next((known for known in COLUMNS if known.key == key), Column(key, key, ""))

"""What a training step costs: our plugins against Avalanche's Naive in the same in-memory loop, after one task.

A step is the mean over an epoch but for its first, in which the plugin may still prepare (GᵀM⁻¹G). What a task costs
besides is given beside it: its directions, its EKFAC, their preparation, what is worked out from all its inputs. One
repeat builds everything anew, and has each contender right after a Naive run, so that a host whose speed drifts takes
both along: ratios are medians of those of such pairs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.training.supervised import Naive
from data_path import learner
from measure import one_thread, publish

import ong
from ong.plugins import NCL, NGD, OGD, ONGPrior

REPEATS, TRAIN = 5, 4000
COLUMNS = ("ms a step", "by naive", "s a task besides")
Plugins = Callable[[], list[Any]]


class StepTimer(SupervisedPlugin):  # type: ignore[misc]
    """Seconds from the end of an epoch's first step to the end of its last."""

    seconds = 0.0

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self._start: float | None = None

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if self._start is None:
            self._start = now
        self.seconds = now - self._start


CONTENDERS: dict[str, Plugins] = {
    "naive": lambda: [],
    "ong-prior, no directions": lambda: [NCL(pull=0.0)],
    "ong-prior, no directions, all columns": lambda: [NCL(pull=0.0, rank=None)],
    "ong-prior, M = 100": lambda: [ONGPrior(directions_per_task=100)],
    "ong-prior, M = 1000": lambda: [ONGPrior(directions_per_task=1000)],
    "ogd, M = 100": lambda: [OGD(directions_per_task=100)],
    "ogd, M = 1000": lambda: [OGD(directions_per_task=1000)],
    "ngd, refresh every 50": lambda: [NGD()],
}


def one(plugins: Plugins, batch: int, stream: Any) -> tuple[float, float]:
    """Return milliseconds a step of the second task, and the task's seconds besides."""
    timer = StepTimer()
    strategy: Naive = learner(batch, ong.InMemoryLoader(), *plugins(), timer)
    strategy.train(stream[0], eval_streams=[])
    start = time.perf_counter()
    strategy.train(stream[1], eval_streams=[])
    whole = time.perf_counter() - start
    return timer.seconds / (-(-TRAIN // batch) - 1) * 1e3, whole - timer.seconds


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    stream = ong.permuted_mnist(tasks=2).train_stream
    for experience in stream:
        experience._dataset = experience._dataset.subset(list(range(TRAIN)))
    figures: dict[str, Any] = {}
    for batch in (10, 64):
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(REPEATS):
            for name, plugins in CONTENDERS.items():
                naive, _ = one(CONTENDERS["naive"], batch, stream)
                step, besides = one(plugins, batch, stream)
                found[name].append((step, step / naive, besides))
        figures[f"batch {batch}"] = {
            name: dict(zip(COLUMNS, map(median, zip(*values, strict=True)), strict=True))
            for name, values in found.items()
        }
    small, large = figures["batch 10"], figures["batch 64"]
    rows = [
        "| step | ms, batch 10 | by naive | ms, batch 64 | by naive | s a task besides |",
        "|---|---|---|---|---|---|",
    ]
    for name in CONTENDERS:  # naive too: what the same work differs by
        ms, ratio, besides = COLUMNS
        rows.append(
            f"| {name} | {small[name][ms]:.2f} | {small[name][ratio]:.2f} | {large[name][ms]:.2f} "
            f"| {large[name][ratio]:.2f} | {large[name][besides]:.2f} |"
        )
    publish("steps", figures, "\n".join(rows))


if __name__ == "__main__":
    main()

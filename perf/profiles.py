"""Where a training step's time goes, by torch's profiler: products and what they reach of this machine's peak.

Batch 64, the second task of Permuted MNIST. Milliseconds of kinds of work are the profiler's own times in a run of its
own, which it slows a little; the step is from a run without it. What is left is Python, Avalanche and dispatch. To
profile an earlier state, put its tree first: ``PYTHONPATH=../ong-before python perf/profiles.py --print``.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from data_path import learner
from measure import one_thread, publish
from steps import CONTENDERS, StepTimer
from torch.profiler import ProfilerActivity, profile

import ong

BATCH, TRAIN = 64, 4000
STEPS = -(-TRAIN // BATCH)
SHOWN = (
    "naive",
    "ong-prior, no directions",
    "ong-prior, M = 1000",
    "ogd, M = 1000",
    "ngd, refresh every 50",
)
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::mv", "aten::addmv", "aten::linear", "aten::baddbmm")
COPIES = ("aten::cat", "aten::copy_", "aten::clone", "aten::index", "aten::contiguous", "aten::_to_copy", "aten::fill_")


def peak() -> float:
    """Gflop/s of a product of two 785 × 785 matrices."""
    a = torch.randn(785, 785)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        _ = a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 785**3 / sorted(seconds)[10] / 1e9


class Profiled(SupervisedPlugin):  # type: ignore[misc]
    """Profiles the second epoch, in which nothing is prepared any more."""

    def __init__(self) -> None:
        super().__init__()
        self.profile = profile(activities=[ProfilerActivity.CPU], with_flops=True)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_epochs == 1:
            self.profile.start()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_epochs == 1:  # the clock ticks after the plugins
            self.profile.stop()


def second_task(name: str, stream: Any, watcher: Any) -> None:
    strategy = learner(BATCH, ong.InMemoryLoader(), *CONTENDERS[name](), watcher)
    strategy.train(stream[0], eval_streams=[])
    strategy.train_epochs = 2
    strategy.train(stream[1], eval_streams=[])


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    stream = ong.permuted_mnist(tasks=2).train_stream
    for experience in stream:
        experience._dataset = experience._dataset.subset(list(range(TRAIN)))
    top = peak()
    figures: dict[str, Any] = {"peak Gflop/s": top}
    rows = [
        "| step | ms | products, ms | their Gflop/s | copies, ms | other tensor work, ms | the rest, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in SHOWN:
        if name not in CONTENDERS:
            continue
        timers = [StepTimer() for _ in range(3)]
        for timer in timers:
            second_task(name, stream, timer)
        wall = sorted(timer.seconds for timer in timers)[1] / (STEPS - 1) * 1e3
        watcher = Profiled()
        second_task(name, stream, watcher)
        events = watcher.profile.key_averages()
        kinds = {"products": 0.0, "copies": 0.0, "other": 0.0}
        flops = 0
        for event in events:
            kind = "products" if event.key in PRODUCTS else "copies" if event.key in COPIES else "other"
            if event.key.startswith("aten::"):
                kinds[kind] += event.self_cpu_time_total / STEPS / 1e3
                flops += event.flops if kind == "products" else 0
        rate = flops / STEPS / kinds["products"] / 1e6
        rest = wall - sum(kinds.values())
        figures[name] = {"ms": wall, **kinds, "Gflop/s": rate, "rest": rest}
        rows.append(
            f"| {name} | {wall:.2f} | {kinds['products']:.2f} | {rate:.0f} | {kinds['copies']:.2f} "
            f"| {kinds['other']:.2f} | {max(rest, 0):.2f} |"
        )
    rows += ["", f"A product of two 785 × 785 matrices reaches {top:.0f} Gflop/s here."]
    text = "\n".join(rows)
    if "--print" in sys.argv:
        print(text)
    else:
        publish("profiles", figures, text)


if __name__ == "__main__":
    main()

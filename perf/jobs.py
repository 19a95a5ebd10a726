"""Two worker processes against one: eight runs side by side on two cores, and one after the other."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from measure import alternate, medians, publish, ratio

from ong.experiments.plan import plan
from ong.experiments.sweep import sweep

REPEATS, AT_MOST = 3, 0.6
STRATEGIES, SEEDS = ["naive", "ogd"], [0, 1, 2, 3]


def runs(jobs: int) -> None:
    """Do all runs with so many worker processes, which start and import within this time."""
    with tempfile.TemporaryDirectory() as folder:
        planned = plan("permuted-mnist", STRATEGIES, SEEDS, out=Path(folder))
        assert all(outcome.record is not None for outcome in sweep(planned, jobs, show=False))


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # workers inherit it
    seconds = alternate({"one job": lambda: runs(1), "two jobs": lambda: runs(2)}, REPEATS)
    share = ratio(seconds, "two jobs", "one job")
    rows = [f"| {len(STRATEGIES) * len(SEEDS)} runs of permuted-mnist, two cores | seconds |", "|---|---|"]
    rows += [f"| {name} | {value:.1f} |" for name, value in medians(seconds).items()]
    rows += [
        "",
        f"Two jobs take {share:.2f} of one job's time (median of the ratios in {REPEATS} turns; at most {AT_MOST} is wanted).",
    ]
    publish("jobs", {"seconds": seconds, "share": share, "at_most": AT_MOST}, "\n".join(rows))


if __name__ == "__main__":
    main()

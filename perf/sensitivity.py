"""What a rounding error becomes: runs with other vector units, and from initial weights that differ in the last digits.

::

    python perf/sensitivity.py permuted-mnist results/sensitivity owm ewc naive:optimizer.lr=0.12

Each strategy is run from the same seed at every level of torch's vector units, then at the widest from weights
w(1 + 1e-6 ε), ε normal. Each run is a process, as the level is chosen when torch is imported. ``apart`` is how far the
final weights lie from those of the first run, ‖w − w₀‖/‖w₀‖.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LEVELS = ("avx512", "avx2", "default")
SIZE, DRAWS = 1e-6, 3
COLUMNS = ("strategy", "settings", "cpu_capability", "size", "draw", "ACC", "BWT", "apart")


def one(benchmark: str, strategy: str, settings: str, size: float, draw: int, weights: Path) -> dict[str, Any]:
    """Run once from perturbed weights, keep the final ones, and return what came of it."""
    import torch

    from ong.experiments.arguments import parse_settings
    from ong.experiments.plan import plan
    from ong.experiments.progress import Silent

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        (job,) = plan(benchmark, [strategy], [0], parse_settings(settings.split()), out=folder)
        run: Any = job.run()
        generator = torch.Generator().manual_seed(draw)
        with torch.no_grad():
            for parameter in run.learner.model.parameters():
                parameter.mul_(1 + size * torch.randn(parameter.shape, generator=generator))
        job.folder.prepare()
        metrics = run.run(job.folder, Silent())["metrics"]
    final = torch.cat([parameter.detach().flatten() for parameter in run.learner.model.parameters()])
    if not weights.exists():
        torch.save(final, weights)
    first = torch.load(weights)
    return {
        "strategy": strategy, "settings": settings, "size": size, "draw": draw, "ACC": metrics["ACC"],
        "BWT": metrics["BWT"], "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "apart": float((final - first).norm() / first.norm()),
    }  # fmt: skip


def main() -> None:
    """Run all and write ``report.csv`` and ``report.md``."""
    if sys.argv[1] == "one":
        benchmark, strategy, settings, size, draw, weights = sys.argv[2:]
        print(json.dumps(one(benchmark, strategy, settings, float(size), int(draw), Path(weights))))
        return
    parser = argparse.ArgumentParser(description="runs from the same seed, a rounding error apart")
    parser.add_argument("benchmark")
    parser.add_argument("out", type=Path)
    parser.add_argument("strategies", nargs="+", help="such as ewc or naive:optimizer.lr=0.12")
    given = parser.parse_args()
    rows = []
    for name in given.strategies:
        strategy, _, settings = name.partition(":")
        with TemporaryDirectory() as folder:
            runs = [(level, 0.0, 0) for level in LEVELS] + [(LEVELS[0], SIZE, draw) for draw in range(1, DRAWS + 1)]
            for level, size, draw in runs:
                arguments = ["one", given.benchmark, strategy, settings, str(size), str(draw), f"{folder}/first.pt"]
                done = subprocess.run(
                    [sys.executable, __file__, *arguments],
                    env=os.environ | {"ATEN_CPU_CAPABILITY": level}, stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(rows[-1], file=sys.stderr)
    write(rows, given.out)


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Write what came of all runs, exactly and rounded."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "report.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        numbers = ["–" if row[key] is None else f"{row[key]:.3f}" for key in ("ACC", "BWT", "apart")]
        lines.append("| " + " | ".join([*(str(row[key]) for key in COLUMNS[:-3]), *numbers]) + " |")
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

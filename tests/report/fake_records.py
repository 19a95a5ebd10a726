"""Fake records with the shape of real ones: accuracies decay at a rate of each strategy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ong.metrics import AccuracyMatrix, all_metrics
from ong.report.migrations import SCHEMA

# strategy -> (accuracy when just learned, accuracy lost per later task, needs, memory in bytes at the end)
STRATEGIES: dict[str, tuple[float, float, list[str], int | None]] = {
    "naive": (0.945, 0.045, [], 0),
    "ewc": (0.925, 0.016, [], 720_000),
    "ogd": (0.940, 0.024, [], 4_800_000),
    "gpm": (0.920, 0.004, [], 3_100_000),
    "ong-prior": (0.942, 0.0015, [], 9_600_000),
    "er-replay": (0.938, 0.007, ["stored examples"], 6_280_000),
    "joint": (0.930, 0.0, ["all tasks at once"], None),
    "scratch": (0.946, 0.9, ["the task's identity"], None),
}


def matrix(strategy: str, seed: int, tasks: int = 10) -> AccuracyMatrix:
    """R of a made-up run: R[t, j] = learned − rate (t − j) for j ≤ t, near chance for tasks to come."""
    learned, rate, _, _ = STRATEGIES[strategy]
    generator = np.random.default_rng([seed, len(strategy), ord(strategy[0])])
    values = generator.uniform(0.06, 0.16, size=(tasks + 1, tasks))
    for t in range(tasks):
        for j in range(t + 1):
            values[t + 1, j] = np.clip(learned - rate * (t - j) + generator.normal(0, 0.006), 0.1, 1.0)
    if strategy == "joint":
        values[1:-1] = np.nan
    return AccuracyMatrix(values.round(4))


def record(
    strategy: str = "naive", seed: int = 0, tasks: int = 10, benchmark: str = "permuted-mnist", **changes: Any
) -> dict[str, Any]:
    """The content of a ``record.json``."""
    needs, memory = STRATEGIES[strategy][2:]
    r = matrix(strategy, seed, tasks)
    generator = np.random.default_rng([seed, 1])
    stored = bool(memory)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "benchmark": {
            "name": benchmark,
            "kind": "continual",
            "dataset": "mnist-10k",
            "stream": {"name": "permuted", "tasks": tasks, "first_identity": True},
            "model": {"name": "mlp", "hidden": [100, 100]},
            "training": {"epochs": 2, "batch_size": 32},
        },
        "strategy": {
            "name": strategy,
            "summary": f"What {strategy} does, in a line",
            "source": "a paper, 2020",
            "template": {"use": "avalanche.training.supervised:Naive"},
            "plugins": [{"use": f"ong.plugins:{strategy.upper()}", "damping": 0.1, "directions_per_task": 100}]
            if stored
            else [],
            "optimizer": {"use": "torch.optim:SGD", "lr": 0.1},
            "needs": needs,
        },
        "seed": seed,
        "accuracy_matrix": r.to_rows(),
        "metrics": all_metrics(r),
        "diagnostics": {
            "leak": [None] + [float(x) for x in generator.uniform(1e-8, 1e-6, tasks - 1)] if stored else [None] * tasks,
            "descent_cosine": [1.0] + [float(x) for x in generator.uniform(0.3, 0.9, tasks - 1)],
            "memory_bytes": [memory * (t + 1) // tasks if memory is not None else None for t in range(tasks)],
        },
        "timing": {
            "train_seconds": [float(x) for x in generator.uniform(1.0, 2.0, tasks)],
            "evaluate_seconds": [0.25] * (tasks + 1),
            "total_seconds": 20.0,
        },
    }
    return content | changes


def write_record(out: Path, content: dict[str, Any]) -> Path:
    """Lay a record down as ``OUT/BENCHMARK/STRATEGY/seed-S/record.json`` with an environment beside it."""
    folder = out / content["benchmark"]["name"] / content["strategy"]["name"] / f"seed-{content['seed']}"
    folder.mkdir(parents=True)
    path = folder / "record.json"
    path.write_text(json.dumps(content))
    environment = {
        "versions": {"python": "3.11.7", "torch": "2.14.1", "ong": "0.1.0"},
        "cpu": "2 cores",
        "commit": "4db11db",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    return path


def write_failure(out: Path, strategy: str, seed: int, benchmark: str = "permuted-mnist") -> Path:
    """Lay down a run that ended early."""
    folder = out / benchmark / strategy / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "failure.json"
    path.write_text(
        json.dumps({"strategy": strategy, "seed": seed, "task": 3, "step": 512, "message": "the loss became NaN"})
    )
    return path


def write_runs(out: Path, strategies: list[str], seeds: int = 3, **changes: Any) -> Path:
    """Lay down every strategy under every seed; returns ``out``."""
    for strategy in strategies:
        for seed in range(seeds):
            write_record(out, record(strategy, seed, **changes))
    return out

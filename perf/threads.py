"""Steps with torch's and BLAS' threads at their defaults, as in a user's own script.

Each contender runs with scipy's BLAS kept to one thread (:mod:`ong.threads`), with it left alone, and with one thread
for torch too, in turn, on the second task of Permuted MNIST at batch 64.
"""

from __future__ import annotations

import os
import warnings
from statistics import median
from typing import Any

import torch
from measure import publish
from steps import CONTENDERS, TRAIN, Plugins, one
from threadpoolctl import threadpool_limits

import ong
import ong.threads

REPEATS, BATCH = 7, 64
CORES = os.cpu_count() or 1
WAYS = ("BLAS kept to one thread", "BLAS left alone", "one thread for both")
STEPS: dict[str, Plugins] = {
    **{
        name: CONTENDERS[name] for name in ("naive", "ogd, M = 1000", "ong-prior, no directions", "ong-prior, M = 1000")
    },
    "ngd, refresh every 10": lambda: [ong.NGD(refresh_every=10)],
}


def measured(plugins: Plugins, stream: Any, way: str) -> tuple[float, float]:
    """Return milliseconds a step, and a task's seconds besides."""
    torch.set_num_threads(1 if way == WAYS[2] else CORES)
    libraries = ong.threads._libraries
    if way == WAYS[1]:
        ong.threads._libraries = list  # none are found
    try:
        with threadpool_limits(torch.get_num_threads(), user_api="blas"):
            return one(plugins, BATCH, stream)
    finally:
        ong.threads._libraries = libraries


def main() -> None:
    warnings.simplefilter("ignore")
    stream = ong.permuted_mnist(tasks=2).train_stream
    for experience in stream:
        experience._dataset = experience._dataset.subset(list(range(TRAIN)))
    found: dict[str, dict[str, list[tuple[float, float]]]] = {name: {way: [] for way in WAYS} for name in STEPS}
    for _ in range(REPEATS):
        for name, plugins in STEPS.items():
            for way in WAYS:
                found[name][way].append(measured(plugins, stream, way))
    figures = {
        name: {way: [median(column) for column in zip(*values, strict=True)] for way, values in ways.items()}
        for name, ways in found.items()
    }
    rows = [
        f"| {CORES} cores, torch's threads at their default | "
        + " | ".join(f"{way}: ms a step | s a task besides" for way in WAYS)
        + " |",
        "|---" * (2 * len(WAYS) + 1) + "|",
    ]
    for name, ways in figures.items():
        numbers = " | ".join(f"{step:.2f} | {besides:.2f}" for step, besides in ways.values())
        rows.append(f"| {name} | {numbers} |")
    torch.set_num_threads(CORES)
    publish("threads", figures, "\n".join(rows))


if __name__ == "__main__":
    main()

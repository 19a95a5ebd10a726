"""What every program here shares: alternating runs, medians, the machine, and where results go."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

RESULTS = Path(__file__).parents[1] / "results" / "performance"


def one_thread() -> None:
    """Let torch, numpy and scipy use one thread each for the rest of the process."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def alternate(contenders: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time callables in turn, ``repeats`` times, so that whatever else the machine does hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each contender's times."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: Mapping[str, list[float]], over: str, under: str) -> float:
    """Return the median of two contenders' ratios turn by turn, so that a host whose speed drifts takes both along."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "avalanche-lib", "numpy")},
    }


def publish(name: str, figures: Mapping[str, Any], text: str) -> None:
    """Print a result and write it to ``results/performance/NAME.{json,md}``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    where = machine()
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": where, **figures}, indent=1) + "\n")
    described = ", ".join(f"{key} {value}" for key, value in where.items())
    (RESULTS / f"{name}.md").write_text(f"{text}\n\nMachine: {described}. Command: `python perf/{name}.py`.\n")
    print(text)
    print(described)

"""What a step costs after k tasks, in one Avalanche loop: our plugins beside Avalanche's own.

Every strategy trains 20 tasks of 1,000 digits, batch 64, on Permuted MNIST; a step is the mean over a task but for its
first. 100 directions, patterns or stored examples a task, where a method keeps any; bytes are those of the tensors a
plugin holds, stored examples counted as 784 numbers each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.plugins import (
    AGEMPlugin,
    EWCPlugin,
    GEMPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from data_path import learner
from measure import RESULTS, one_thread, publish
from steps import StepTimer

import ong
from ong.plugins import EWC, GPM, NCL, OGD, OWM, SGP, ONGPrior

TASKS, TRAIN, BATCH = 20, 1000, 64
SHOWN = (1, 2, 5, 10, 20)
CONTENDERS: dict[str, Callable[[], list[Any]]] = {
    "naive": lambda: [],
    "ong.OGD": lambda: [OGD()],
    "ong.ONGPrior": lambda: [ONGPrior()],
    "ong.NCL": lambda: [NCL()],
    "ong.EWC": lambda: [EWC(strength=1.0)],
    "ong.OWM": lambda: [OWM()],
    "ong.GPM": lambda: [GPM()],
    "ong.SGP": lambda: [SGP()],
    "Avalanche GEM": lambda: [GEMPlugin(100, 0.5)],
    "Avalanche AGEM": lambda: [AGEMPlugin(100, 64)],
    "Avalanche EWC, separate": lambda: [EWCPlugin(1.0)],
    "Avalanche SI": lambda: [SynapticIntelligencePlugin(1.0)],
    "Avalanche LwF": lambda: [LwFPlugin()],
    "Avalanche replay": lambda: [ReplayPlugin(mem_size=100 * TASKS)],
}


EXAMPLE = 784 * 4 + 16  # bytes of a digit, its label and its task


def held_bytes(value: Any, seen: set[int]) -> int:
    """Bytes of what lies below an object's attributes, each tensor once; stored examples by their number."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, AvalancheDataset):
        return len(value) * EXAMPLE
    if isinstance(value, torch.nn.Module):
        return sum(held_bytes(p, seen) for p in value.parameters())
    if isinstance(value, dict):
        return sum(held_bytes(v, seen) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(held_bytes(v, seen) for v in value)
    return sum(held_bytes(v, seen) for v in vars(value).values()) if hasattr(value, "__dict__") else 0


def grown(plugins: list[Any], stream: Any) -> dict[int, dict[str, float]]:
    """Milliseconds a step and megabytes held in the k-th task."""
    timer = StepTimer()
    strategy = learner(BATCH, ong.InMemoryLoader(), *plugins, timer)
    found = {}
    for k, experience in enumerate(stream, start=1):
        strategy.train(experience, eval_streams=[])
        if k in SHOWN:
            ours = getattr(plugins[0], "memory_bytes", None) if plugins else 0
            held = held_bytes(plugins[0], set()) if ours is None else ours
            found[k] = {"ms": timer.seconds / (-(-TRAIN // BATCH) - 1) * 1e3, "MB": held / 1e6}
    return found


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    stream = ong.permuted_mnist(tasks=TASKS).train_stream
    for experience in stream:
        experience._dataset = experience._dataset.subset(list(range(TRAIN)))
    figures = {name: grown(plugins(), stream) for name, plugins in CONTENDERS.items()}
    rows = [
        f"| ms a step in task | {' | '.join(map(str, SHOWN))} | MB held after {SHOWN[-1]} |",
        "|---" * (len(SHOWN) + 2) + "|",
    ]
    for name, curve in figures.items():
        steps = " | ".join(f"{curve[k]['ms']:.2f}" for k in SHOWN)
        rows.append(f"| {name} | {steps} | {curve[SHOWN[-1]]['MB']:.1f} |")
    publish("peers", {name: {str(k): v for k, v in curve.items()} for name, curve in figures.items()}, "\n".join(rows))
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, curve in figures.items():
        style = "o-" if name.startswith("ong") or name == "naive" else "s--"
        axis.plot(list(curve), [v["ms"] for v in curve.values()], style, label=name, markersize=4)
    axis.set(xlabel="task in training", ylabel="ms a step", yscale="log", xticks=SHOWN)
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(RESULTS / "peers.png", dpi=130)


if __name__ == "__main__":
    main()

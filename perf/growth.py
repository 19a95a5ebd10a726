"""How a step's time and the memory grow: with directions, tasks, width and depth, and for a convolutional net.

A step is one projection of a gradient, training loop left out. The dense reference is OGD with an orthonormal basis of
dense gradients; it is measured where the basis takes at most 1 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import torch
from measure import RESULTS, alternate, medians, one_thread, publish
from torch import nn

from ong.curvature import EKFAC, Block, Metric, find_blocks
from ong.projection import Bounds, DirectionMemory, EuclideanProjection, MetricProjection, collect_directions

REPEATS, MOST_DENSE = 5, 1e9
MOST_IN_METRIC = 3000  # GᵀM⁻¹G takes M²p multiplications
Batch = list[torch.Tensor]


def mlp(widths: list[int]) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 10),
    )  # fmt: skip


def examples(count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 1, 28, 28, generator=generator), torch.randint(10, (count,), generator=generator)]


def memory_of(model: nn.Module, blocks: Mapping[str, Block], count: int) -> DirectionMemory:
    memory = DirectionMemory()
    x, y = examples(count)
    for start in range(0, count, 500):
        batch = [x[start : start + 500], y[start : start + 500]]
        memory.extend(collect_directions(model, batch, blocks=blocks), blocks)
    return memory


def metric_of(model: nn.Module, blocks: Mapping[str, Block]) -> Metric:
    ekfac = EKFAC(rank=100)
    ekfac.add(model, [examples(256)], fisher="logit", blocks=blocks)
    return Metric(ekfac, blocks, 0.1)


def measured(model: nn.Module, count: int) -> dict[str, float]:
    """Milliseconds a projection and bytes kept: OGD in factors, dense OGD, and ong-prior in its metric."""
    blocks = find_blocks(model)
    vector = {name: torch.randn(block.shape) for name, block in blocks.items()}
    memory = memory_of(model, blocks, count)
    p = sum(block.shape[0] * block.shape[1] for block in blocks.values())
    euclidean = EuclideanProjection(memory)
    contenders: dict[str, Callable[[], Any]] = {"ogd": lambda: euclidean(vector)}
    if count <= MOST_IN_METRIC:
        in_metric = MetricProjection(memory, metric_of(model, blocks))
        contenders["ong-prior"] = lambda: in_metric(vector)
        in_metric(vector)
    if count * p * 4 <= MOST_DENSE:
        basis, flat = torch.randn(count, p), torch.randn(p)
        contenders["dense ogd"] = lambda: flat - basis.T @ (basis @ flat)
    ms = {name: value * 1e3 for name, value in medians(alternate(contenders, REPEATS)).items()}
    return ms | {"factored bytes": memory.bytes, "dense bytes": count * p * 4, "parameters": p}


def over_tasks(tasks: tuple[int, ...], limit: int) -> dict[int, dict[str, float]]:
    """OGD with 100 directions a task, all kept or the most independent ``limit``."""
    model = mlp([784, 100, 100, 10])
    blocks = find_blocks(model)
    vector = {name: torch.randn(block.shape) for name, block in blocks.items()}
    bounded, whole, found = DirectionMemory(), DirectionMemory(), {}
    for task in range(1, max(tasks) + 1):
        rows = collect_directions(model, examples(100, seed=task), blocks=blocks)
        bounded.extend(rows, blocks)
        whole.extend(rows, blocks)
        bounded, _ = Bounds(limit).apply(bounded)
        if task in tasks:
            projections = {"all": EuclideanProjection(whole), f"at most {limit}": EuclideanProjection(bounded)}
            contenders = {name: (lambda p=p: p(vector)) for name, p in projections.items()}
            found[task] = {name: value * 1e3 for name, value in medians(alternate(contenders, REPEATS)).items()}
            found[task] |= {"bytes, all": whole.bytes, f"bytes, at most {limit}": bounded.bytes}
    return found


def plot(curves: Mapping[str, Mapping[Any, Mapping[str, float]]]) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    for axis, (title, curve) in zip(axes, curves.items(), strict=True):
        names = [name for name in next(iter(curve.values())) if name != "parameters" and "bytes" not in name]
        for name in names:
            points = [(x, values[name]) for x, values in curve.items() if name in values]
            axis.plot(*zip(*points, strict=True), "o-", label=name)
        axis.set(xlabel=title, xscale="log", yscale="log")
        axis.legend(fontsize="small")
    axes[0].set_ylabel("ms a projection")
    figure.savefig(RESULTS / "growth.png", dpi=130)


def main() -> None:
    one_thread()
    net = [784, 100, 100, 10]
    curves: dict[str, dict[Any, dict[str, float]]] = {
        "directions": {count: measured(mlp(net), count) for count in (100, 300, 1000, 3000, 10_000)},
        "tasks, 100 directions each": over_tasks((5, 10, 20, 50, 100), 1000),
        "width of the hidden layers": {
            width: measured(mlp([784, width, width, 10]), 500) for width in (100, 300, 1000, 2000)
        },
        "hidden layers of 100": {depth: measured(mlp([784, *[100] * depth, 10]), 500) for depth in (1, 2, 4, 8, 16)},
    }
    convolutional = measured(cnn(), 500)
    rows = [
        "| what | size | ogd, ms | ong-prior, ms | dense ogd, ms | factored, MB | dense, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, curve in [*curves.items(), ("convolutional net, 500 directions", {"–": convolutional})]:
        for x, v in curve.items():
            if "ogd" in v:
                prior = f"{v['ong-prior']:.2f}" if "ong-prior" in v else "–"
                dense = f"{v['dense ogd']:.1f}" if "dense ogd" in v else "–"
                rows.append(
                    f"| {title} | {x} | {v['ogd']:.2f} | {prior} | {dense} "
                    f"| {v['factored bytes'] / 1e6:.1f} | {v['dense bytes'] / 1e6:.0f} |"
                )
    rows += [
        "",
        "| tasks, 100 directions each | all, ms | at most 1000, ms | all, MB | at most 1000, MB |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {x} | {v['all']:.2f} | {v['at most 1000']:.2f} | {v['bytes, all'] / 1e6:.1f} "
        f"| {v['bytes, at most 1000'] / 1e6:.1f} |"
        for x, v in curves["tasks, 100 directions each"].items()
    ]
    publish("growth", {"curves": curves, "convolutional": convolutional}, "\n".join(rows))
    plot(curves)


if __name__ == "__main__":
    main()

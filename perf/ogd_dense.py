"""OGD's step with directions in factors against OGD as usually written: an orthonormal basis of dense gradients.

Both are plugins in one Avalanche loop, on the second task of Permuted MNIST with the directions of the first. What a
projection costs is a step less a Naive step. One thread, and at the largest batch the default number of threads too.
Other users of the host slow down arithmetic in caches more than reads of 717 MB, so that the ratio of the fastest runs
stands beside the median of ratios.
"""

from __future__ import annotations

import copy
import os
import warnings
from statistics import median
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from data_path import learner
from measure import one_thread, publish
from steps import StepTimer

import ong
from ong.curvature import find_blocks
from ong.plugins import OGD

M, TRAIN = 2000, 2000
BATCHES = 10, 32, 64  # those of the two protocols, and a larger one
CORES = os.cpu_count() or 1
REPEATS = {(10, 1): 3, (32, 1): 3, (64, 1): 3, (64, CORES): 3}  # of a batch size on so many threads


class DenseOGD(SupervisedPlugin):  # type: ignore[misc]
    """v = g − QᵀQg, Q orthonormal rows of all parameters."""

    def __init__(self, basis: torch.Tensor) -> None:
        super().__init__()
        self.basis = basis

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        gradients = [p.grad for p in strategy.model.parameters()]
        flat = torch.cat([g.flatten() for g in gradients])
        flat -= self.basis.T @ (self.basis @ flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.reshape(gradient.shape))


class FirstUpdate(SupervisedPlugin):  # type: ignore[misc]
    """Keeps the weights' way in the first step."""

    update: torch.Tensor | None = None

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        if self.update is None:
            self._before = weights(strategy.model)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        if self.update is None:
            self.update = self._before - weights(strategy.model)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def dense_basis(method: Any, model: torch.nn.Module) -> torch.Tensor:
    """The directions that OGD has stored, multiplied out and orthonormalised, in the order of the parameters."""
    blocks = find_blocks(model)
    columns = []
    for name, rows in method.memory.rows.items():
        matrices = rows.dense(torch.arange(len(rows)))
        columns += [torch.stack(parts) for parts in zip(*map(blocks[name].split, matrices), strict=True)]
    dense = torch.cat([c.flatten(1) for c in columns], 1)
    return torch.linalg.qr(dense.T.double()).Q.float().T.contiguous()


def fastest(found: dict[str, list[float]]) -> dict[str, float]:
    """Ratios of the fastest runs."""
    least = {kind: min(values) for kind, values in found.items()}
    naive = least["naive"]
    return {
        "step": least["dense"] / least["factored"],
        "projection": (least["dense"] - naive) / (least["factored"] - naive),
    }


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    stream = ong.permuted_mnist(tasks=2).train_stream
    for experience in stream:
        experience._dataset = experience._dataset.subset(list(range(TRAIN)))
    plugin = OGD(directions_per_task=M)
    first = learner(64, ong.InMemoryLoader(), plugin)
    first.train(stream[0], eval_streams=[])
    kept_state, model = plugin.state_dict(), first.model
    basis = dense_basis(plugin.method, model)

    def second(kind: str, batch: int, *more: Any) -> tuple[float, torch.Tensor]:
        """Milliseconds a step of the second task, and how far the weights went."""
        timer = StepTimer()
        plugins: list[Any] = []
        if kind == "factored":
            plugins = [OGD(directions_per_task=M)]
            plugins[0].load_state_dict(kept_state)
        elif kind == "dense":
            plugins = [DenseOGD(basis)]
        strategy = learner(batch, ong.InMemoryLoader(), *plugins, timer, *more)
        strategy.model.load_state_dict(copy.deepcopy(model.state_dict()))
        before = weights(strategy.model)
        strategy.train(stream[1], eval_streams=[])
        return timer.seconds / (-(-TRAIN // batch) - 1) * 1e3, weights(strategy.model) - before

    ms: dict[str, dict[str, float]] = {}
    ratios: dict[str, dict[str, float]] = {}
    for (batch, threads), repeats in REPEATS.items():
        torch.set_num_threads(threads)
        found: dict[str, list[float]] = {"naive": [], "dense": [], "factored": []}
        for _ in range(repeats):
            for kind, values in found.items():
                values.append(second(kind, batch)[0])
        name = f"batch {batch}" if threads == 1 else f"batch {batch}, {threads} threads"
        ms[name] = {kind: median(values) for kind, values in found.items()}
        triples = list(zip(*found.values(), strict=True))  # measured right after one another
        ratios[name] = {
            "step": median(dense / factored for _, dense, factored in triples),
            "projection": median((dense - naive) / (factored - naive) for naive, dense, factored in triples),
            **{f"{kind}, fastest": value for kind, value in fastest(found).items()},
        }

    torch.set_num_threads(1)
    gaps: dict[str, float] = {}
    for batch in BATCHES:
        firsts = [FirstUpdate(), FirstUpdate()]
        ways = [second(kind, batch, first)[1] for kind, first in zip(("dense", "factored"), firsts, strict=True)]
        updates = [first.update for first in firsts]
        gaps[f"first update, batch {batch}"] = float((updates[0] - updates[1]).norm() / updates[0].norm())
        gaps[f"epoch, batch {batch}"] = float((ways[0] - ways[1]).norm() / ways[0].norm())

    kept = {"dense": basis.numel() * 4, "factored": plugin.method.memory.bytes}
    working = M * M * (8 + 8) + 100 * M * 4  # the Gram and its inverse, a product's intermediate
    rows = [
        f"| OGD, M = {M}, p = {basis.shape[1]:,} | "
        + "".join(f"ms a step, {name} | less a Naive step | " for name in ms)
        + "MB kept from task to task | MB while a task is trained |",
        "|---" * (2 * len(ms) + 3) + "|",
    ]
    less = {b: {k: v[k] - v["naive"] for k in ("dense", "factored")} for b, v in ms.items()}
    for kind, title in (("dense", "dense, orthonormal basis"), ("factored", "factored, `ong.OGD`")):
        numbers = [f"{ms[b][kind]:.1f} | {less[b][kind]:.1f}" for b in ms]
        during = kept[kind] + (working if kind == "factored" else 0)
        rows.append(f"| {title} | {' | '.join(numbers)} | {kept[kind] / 1e6:.1f} | {during / 1e6:.1f} |")
    smaller = f"{kept['dense'] / kept['factored']:.0f} | {kept['dense'] / (kept['factored'] + working):.1f}"
    for title, which in (("dense / factored", ""), ("of the fastest runs", ", fastest")):
        faster = [f"{ratio['step' + which]:.1f} | {ratio['projection' + which]:.1f}" for ratio in ratios.values()]
        rows.append(f"| {title} | {' | '.join(faster)} | {smaller} |")
    rows += [
        "",
        "Relative distance of the two: "
        + ", ".join(
            f"{gaps[f'first update, batch {n}']:.1e} of the first update at batch {n}, "
            f"{gaps[f'epoch, batch {n}']:.1e} of the weights' way in an epoch of {-(-TRAIN // n)} steps"
            for n in BATCHES
        )
        + ".",
    ]
    publish(
        "ogd_dense", {"ms": ms, "ratios": ratios, "bytes": kept, "working bytes": working, "gap": gaps}, "\n".join(rows)
    )


if __name__ == "__main__":
    main()

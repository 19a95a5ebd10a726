"""One refresh of a current task's EKFAC and one solve with it: ours against curvlinops and nngeometry.

The same net after a pass over 1,000 digits, those digits, the Monte Carlo Fisher with one draw each (`empirical` for nngeometry, which has no faster
one). Peers that are not installed are left out, with a line that says so.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from data_path import net
from measure import alternate, medians, one_thread, publish
from torch import nn

import ong
from ong.curvature import EKFAC, EigenBlock, RunningEKFAC, Vector, cotangents, find_blocks, input_covariances, record

REPEATS, EXAMPLES, DAMPING, DRAWS = 7, 1000, 0.1, 10


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    model = net()
    flat, layers = model[0], nn.Sequential(*list(model)[1:])
    x, y = ong.permuted_mnist(tasks=1).train_stream[0].dataset._flat_data._datasets[0].tensors
    all_x, all_y = flat(x), y
    x, y = all_x[:EXAMPLES], y[:EXAMPLES]
    batches = in_batches(x, y)
    blocks = find_blocks(layers)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    for start in range(0, len(x), 64):  # a net in training
        optimizer.zero_grad()
        nn.functional.cross_entropy(layers(x[start : start + 64]), y[start : start + 64]).backward()
        optimizer.step()
    gradient = {name: torch.randn(block.shape) for name, block in blocks.items()}

    def ours(fisher: Any, vector: Vector = gradient) -> Callable[[], Any]:
        def run() -> Any:
            ekfac = EKFAC()
            ekfac.add(layers, batches, fisher=fisher, blocks=blocks)
            return ekfac.apply(vector, damping=DAMPING)

        return run

    reads_inputs = next(iter(blocks))
    of_all = input_covariances(layers, in_batches(all_x, all_y), {reads_inputs: blocks[reads_inputs]})
    known = EigenBlock.of_inputs(of_all[reads_inputs], blocks[reads_inputs].rows)

    def kept() -> Any:
        ekfac = EKFAC({reads_inputs: known})
        ekfac.add(layers, batches, blocks=blocks, keep_inputs={reads_inputs})
        return ekfac.apply(gradient, damping=DAMPING)

    def curvlinops() -> Any:
        from curvlinops import EKFACLinearOperator, KFACInverseLinearOperator

        parameters = list(layers.parameters())
        operator = EKFACLinearOperator(
            layers, nn.CrossEntropyLoss(), parameters, batches, fisher_type="mc", mc_samples=1,
            check_deterministic=False, separate_weight_and_bias=False,
        )  # fmt: skip
        inverse = KFACInverseLinearOperator(operator, damping=DAMPING, use_exact_damping=True)
        return inverse @ [torch.randn_like(p) for p in parameters]

    def nngeometry() -> Any:
        from nngeometry.metrics import FIM
        from nngeometry.object import PMatEKFAC
        from nngeometry.object.vector import PVector
        from torch.utils.data import DataLoader, TensorDataset

        loader = DataLoader(TensorDataset(x, y), batch_size=250)
        fisher = FIM(layers, loader, PMatEKFAC, variant="classif_logits")
        fisher.update_diag(loader)
        return fisher.solve(PVector.from_model(layers), regul=DAMPING)

    running = RunningEKFAC(blocks, damping=DAMPING, window=EXAMPLES)
    for batch in batches:
        with record(blocks) as tape:
            logits = layers(batch[0])
        running.observe(tape.factors(logits, next(cotangents(logits, "empirical", targets=batch[1]))))
    running.refresh()

    def warm() -> Any:
        running.refresh()
        return running.precondition(gradient)

    contenders: dict[str, Callable[[], Any]] = {
        "ong, mc": ours("mc"),
        "ong, rademacher": ours("rademacher"),
        "ong, rademacher, with the basis of the task's inputs kept": kept,
        "ong, running: from training's own factors and the bases before": warm,
    }
    for name, contender in (("curvlinops", curvlinops), ("nngeometry", nngeometry)):
        if find_spec(name) is None:
            print(f"{name} is not installed and left out")
            continue
        contender()
        contenders[name] = contender
    ours("mc")()
    seconds = medians(alternate(contenders, REPEATS))
    first = next(iter(seconds.values()))
    rows = ["| refresh and first solve, 784-100-100-10, 1,000 examples | ms | by ong, mc |", "|---|---|---|"]
    rows += [f"| {name} | {value * 1e3:.0f} | {value / first:.2f} |" for name, value in seconds.items()]
    small = gradients_of(layers, x, y)
    exact = ours("empirical", small)()
    gaps = {name: distance(running.precondition(small)[name], DAMPING * exact[name]) for name in small}
    worst = max(gaps.values())
    best = EKFAC.fit(layers, in_batches(all_x, all_y), fisher="exact", blocks=blocks).apply(small, damping=DAMPING)
    off: dict[str, list[float]] = {"anew": [], "kept": []}
    for seed in range(DRAWS):
        generator = torch.Generator().manual_seed(seed)
        part = torch.randperm(len(all_x), generator=generator)[:EXAMPLES]
        drawn = in_batches(all_x[part], all_y[part])
        for kind, ekfac in (("anew", EKFAC()), ("kept", EKFAC({reads_inputs: known}))):
            ekfac.add(layers, drawn, generator=generator, blocks=blocks, keep_inputs=ekfac.blocks.keys())
            found = ekfac.apply(small, damping=DAMPING)[reads_inputs]
            off[kind].append(distance(found, best[reads_inputs]))
    anew, kept_off = (statistics.mean(values) for values in off.values())
    ranks = ", ".join(f"{running.ranks[name]} of {block.shape[1]}" for name, block in blocks.items())
    rows += [
        "",
        f"The running EKFAC keeps {ranks} columns; M⁻¹g of the mean gradient differs from the full EKFAC's of the same "
        f"examples by at most {worst:.1%} in a layer ({running.tolerance:.0%} of the damped inverse's norm was allowed).",
        "",
        f"In the layer that reads the inputs, M⁻¹g from {EXAMPLES:,} drawn examples differs from that of the exact EKFAC "
        f"of all {len(all_x):,} by {anew:.1%} with bases of those examples, and by {kept_off:.1%} with the basis of all "
        f"inputs (means of {DRAWS} draws).",
    ]
    figures = {"seconds": seconds, "gaps": gaps, "ranks": running.ranks, "off": off}
    publish("refresh", figures, "\n".join(rows))


def in_batches(x: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(250), y.split(250), strict=True))


def gradients_of(layers: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Vector:
    """The gradient of the mean loss."""
    layers.zero_grad()
    nn.functional.cross_entropy(layers(x), y).backward()
    return {name: block.gradient() for name, block in find_blocks(layers).items()}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


if __name__ == "__main__":
    main()

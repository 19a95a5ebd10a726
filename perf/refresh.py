"""One refresh of a current task's EKFAC and one solve with it: ours against curvlinops and nngeometry.

The same net after a pass over 1,000 digits, those digits, the Monte Carlo Fisher with one draw each (`empirical` for nngeometry, which has no faster
one). Peers that are not installed are left out, with a line that says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from data_path import net
from measure import alternate, medians, one_thread, publish
from torch import nn

import ong
from ong.curvature import EKFAC, find_blocks

REPEATS, EXAMPLES, DAMPING = 9, 1000, 0.1


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    model = net()
    flat, layers = model[0], nn.Sequential(*list(model)[1:])
    x, y = ong.permuted_mnist(tasks=1).train_stream[0].dataset._flat_data._datasets[0].tensors
    x, y = flat(x)[:EXAMPLES], y[:EXAMPLES]
    batches = in_batches(x, y)
    blocks = find_blocks(layers)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    for start in range(0, len(x), 64):  # a net in training
        optimizer.zero_grad()
        nn.functional.cross_entropy(layers(x[start : start + 64]), y[start : start + 64]).backward()
        optimizer.step()
    gradient = {name: torch.randn(block.shape) for name, block in blocks.items()}

    def ours(fisher: Any, rank: int | None = None) -> Callable[[], Any]:
        def run() -> Any:
            ekfac = EKFAC.fit(layers, batches, fisher=fisher, rank=rank, blocks=blocks)
            return ekfac.apply(gradient, damping=DAMPING)

        return run

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

    contenders: dict[str, Callable[[], Any]] = {
        "ong, mc": ours("mc"),
        "ong, rademacher": ours("rademacher"),
        "ong, rademacher, 100 leading columns": ours("rademacher", rank=100),
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
    publish("refresh", {"seconds": seconds}, "\n".join(rows))


def in_batches(x: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(250), y.split(250), strict=True))


if __name__ == "__main__":
    main()

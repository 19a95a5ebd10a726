"""EKFAC, K-FAC and the exact Fisher against curvlinops, an independent implementation."""

from __future__ import annotations

import pytest
import torch
from curvlinops import EKFACLinearOperator, GGNLinearOperator, KFACLinearOperator
from nets import flat, mlp, seeded, unflat
from torch import Tensor, nn

from ong.curvature import EKFAC, Likelihood, cotangents, find_blocks, record


def conv_net() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2),
        nn.Tanh(),
        nn.Conv2d(3, 4, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    return seeded(model, torch.Generator().manual_seed(0))


def batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (20,), generator=generator)


CASES = {"mlp": (lambda: mlp(6, 5, 4, 3), (6,)), "cnn": (conv_net, (2, 6, 6))}


def theirs(operator: object, model: nn.Module, vector: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiply curvlinops' operator with a vector over blocks."""
    blocks = find_blocks(model)
    parts = []
    for name, block in blocks.items():
        widths = [p.numel() // block.rows for p in block.parameters]
        parts += [
            part.reshape(p.shape) for p, part in zip(block.parameters, vector[name].split(widths, 1), strict=True)
        ]
    product = iter(operator @ parts)
    return {name: block.matrix([next(product) for _ in block.parameters]) for name, block in blocks.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("ours", "fisher_type"), [("exact", "type-2"), ("empirical", "empirical")])
def test_ekfac_equals_curvlinops(case: str, ours: str, fisher_type: str) -> None:
    maker, shape = CASES[case]
    model, data = maker(), batch(shape)
    operator = EKFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [data],
        fisher_type=fisher_type,
        separate_weight_and_bias=False,
    )
    ekfac = EKFAC.fit(model, [data], fisher=ours)
    blocks = find_blocks(model)
    size = sum(b.shape[0] * b.shape[1] for b in blocks.values())
    v = unflat(torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64), blocks)
    for name, expected in theirs(operator, model, v).items():
        # both take eigh of the same 20-example covariances: agreement to round-off of the eigenbasis
        torch.testing.assert_close(ekfac.apply(v, power=1)[name], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_kfac_equals_curvlinops_expand(case: str) -> None:
    maker, shape = CASES[case]
    model, data = maker(), batch(shape)
    operator = KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [data],
        fisher_type="type-2",
        separate_weight_and_bias=False,
    )
    ekfac = EKFAC.fit(model, [data], fisher="exact")
    blocks = find_blocks(model)
    size = sum(b.shape[0] * b.shape[1] for b in blocks.values())
    v = unflat(torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64), blocks)
    for name, expected in theirs(operator, model, v).items():
        part = ekfac.blocks[name]
        found = part.positions * part.outputs_cov @ v[name] @ part.inputs_cov
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


OUTPUTS = 3
LOSSES = {  # the likelihood, its loss, and how many times the loss's curvature the mean over examples and outputs has
    "categorical": (nn.CrossEntropyLoss(), 1.0),
    "bernoulli": (nn.BCEWithLogitsLoss(), OUTPUTS),
    "gaussian": (nn.MSELoss(), OUTPUTS / 2),
}


@pytest.mark.parametrize("likelihood", LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_pulled_back_exact_cotangents_make_the_generalised_gauss_newton(case: str, likelihood: Likelihood) -> None:
    maker, shape = CASES[case]
    model, (x, y) = maker(), batch(shape)
    loss, scale = LOSSES[likelihood]
    targets = y if likelihood == "categorical" else torch.eye(OUTPUTS, dtype=torch.float64)[y]
    operator = GGNLinearOperator(model, loss, list(model.parameters()), [(x, targets)])
    blocks = find_blocks(model)
    size = sum(b.shape[0] * b.shape[1] for b in blocks.values())
    v = unflat(torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64), blocks)
    with record(blocks) as tape:
        logits = model(x)
    product = torch.zeros(size, dtype=torch.float64)
    for u in cotangents(logits, "exact", likelihood=likelihood):
        factors = tape.factors(logits, u)
        rows = flat({n: torch.einsum("ntr,ntc->nrc", f.outputs, f.inputs) for n, f in factors.items()}, blocks)
        product += rows.T @ (rows @ flat(v, blocks)) / len(x)
    expected = scale * flat(theirs(operator, model, v), blocks)
    torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-11)

"""Sums of parabolas around old weights, against autograd of the sums."""

from __future__ import annotations

import pytest
import torch
from nets import flat, mlp, seeded, unflat, written_out
from torch import Tensor, nn

from ong.curvature import EKFAC, DiagonalPenalty, EKFACPenalty, Vector, find_blocks

SHAPE = (3, 4)


def draw(seed: int) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_several_tasks_are_one_parabola_with_the_gradient_of_their_sum() -> None:
    penalty, theta = DiagonalPenalty(), draw(9).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for seed in range(3):
        fisher, weights = draw(seed), draw(10 + seed)
        fisher[0] = 0  # nothing is known of the first row
        penalty.add({"a": fisher}, {"a": weights})
        total = total + (fisher * (theta - weights).square()).sum() / 2
    (expected,) = torch.autograd.grad(total, theta)
    torch.testing.assert_close(penalty.gradient({"a": theta.detach()})["a"], expected, rtol=1e-12, atol=1e-14)
    assert penalty.bytes == 2 * 12 * 8
    copy = DiagonalPenalty.from_state_dict(penalty.state_dict())
    assert torch.equal(copy.gradient({"a": theta.detach()})["a"], penalty.gradient({"a": theta.detach()})["a"])


def test_online_the_past_decays_and_the_newest_weights_are_the_centre() -> None:
    penalty = DiagonalPenalty()
    penalty.replace({"a": draw(0), "b": draw(1)}, {"a": draw(2), "b": draw(3)}, 0.5)
    penalty.replace({"a": draw(4)}, {"a": draw(5)}, 0.5)  # layer b is frozen
    theta = {"a": draw(6), "b": draw(7)}
    found = penalty.gradient(theta)
    torch.testing.assert_close(found["a"], (draw(4) + draw(0) / 2) * (theta["a"] - draw(5)))
    torch.testing.assert_close(found["b"], draw(1) / 2 * (theta["b"] - draw(3)))


def test_what_a_layer_gains_is_free() -> None:
    penalty = DiagonalPenalty()
    penalty.add({"0": draw(0)}, {"0": draw(1)})
    blocks = find_blocks(nn.Sequential(nn.Linear(4, 5, bias=False, dtype=torch.float64)))
    weights = torch.ones(5, 4, dtype=torch.float64)
    found = penalty.fitted(blocks).gradient({"0": weights})["0"]
    torch.testing.assert_close(found[:3], draw(0) * (1 - draw(1)))
    assert not found[3:].any()


@pytest.mark.parametrize("rank", [None, 3])
def test_with_an_ekfac_it_is_the_gradient_of_the_dense_parabola(rank: int | None) -> None:
    model = mlp(5, 4, 3)
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ekfac, blocks = EKFAC.fit(model, [(x,)], rank=rank), find_blocks(model)
    centre: Vector = {name: block.values() for name, block in blocks.items()}
    step = torch.randn(39, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = {name: centre[name] + part for name, part in unflat(step, blocks).items()}
    whole = torch.block_diag(*(written_out(block) for block in ekfac.blocks.values()))
    penalty = EKFACPenalty(ekfac, centre)
    torch.testing.assert_close(flat(penalty.gradient(weights), blocks), whole @ step, rtol=1e-10, atol=1e-13)
    copy = EKFACPenalty.from_state_dict(penalty.state_dict())
    assert torch.equal(flat(copy.gradient(weights), blocks), flat(penalty.gradient(weights), blocks))
    assert copy.ekfac.rank == rank
    assert penalty.bytes == ekfac.bytes + 39 * 8

    wider = seeded(nn.Sequential(model[0], nn.Tanh(), nn.Linear(4, 5)), torch.Generator().manual_seed(0))
    fitted = penalty.fitted(find_blocks(wider))
    grown = {name: block.values() for name, block in find_blocks(wider).items()}
    grown["2"][:3] = weights["2"]
    found = fitted.gradient({"0": weights["0"], "2": grown["2"]})
    torch.testing.assert_close(found["2"][:3], penalty.gradient(weights)["2"], rtol=1e-10, atol=1e-13)
    assert not found["2"][3:].any()

"""The cotangents average to what their Fisher type and likelihood say."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from nets import mlp
from torch import Tensor

from ong.curvature import EKFAC, FisherType, Likelihood, cotangents, needs_likelihood, residual
from ong.errors import UnknownNameError, UserError

LOGITS = torch.tensor([[0.3, -1.2, 2.0], [5.0, 0.0, -5.0]], dtype=torch.float64)
LIKELIHOODS = get_args(Likelihood)


def moment(sets: list[Tensor]) -> Tensor:
    return sum(torch.einsum("nc,nd->ncd", u, u) for u in sets)


def log_density(likelihood: str, h: Tensor, y: Tensor) -> Tensor:
    """log p(y|h) of one example, by torch.distributions."""
    if likelihood == "categorical":
        return torch.distributions.Categorical(logits=h).log_prob(y)
    if likelihood == "bernoulli":
        return torch.distributions.Bernoulli(logits=h).log_prob(y).sum()
    return torch.distributions.Normal(h, 1.0).log_prob(y).sum()


def output_fisher(likelihood: str, logits: Tensor) -> Tensor:
    """E_y[∇log p ∇log pᵀ] over all y where they can be counted, −∇² log p of a Gaussian, which no y enters."""
    result = []
    for h in logits:
        if likelihood == "gaussian":
            result.append(-torch.autograd.functional.hessian(lambda z: log_density("gaussian", z, 0 * z), h))
            continue
        if likelihood == "categorical":
            values = list(torch.arange(len(h)))
        else:
            values = [torch.tensor(y, dtype=h.dtype) for y in product((0.0, 1.0), repeat=len(h))]
        total = torch.zeros(len(h), len(h), dtype=h.dtype)
        for y in values:
            score = torch.func.grad(lambda z, y=y: log_density(likelihood, z, y))(h)
            total += log_density(likelihood, h, y).exp() * torch.outer(score, score)
        result.append(total)
    return torch.stack(result)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_exact_sets_sum_to_the_output_fisher(likelihood: Likelihood, outputs: int) -> None:
    logits = LOGITS[:, :outputs]
    sets = list(cotangents(logits, "exact", likelihood=likelihood))
    assert len(sets) == outputs
    torch.testing.assert_close(moment(sets), output_fisher(likelihood, logits), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", ["rademacher", "logit"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_random_signs_average_to_the_output_fisher_over_all_signs(
    kind: FisherType, likelihood: Likelihood, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = LOGITS[:, :outputs]
    total = torch.zeros(2, outputs, outputs, dtype=torch.float64)
    for signs in product((-1.0, 1.0), repeat=outputs):
        monkeypatch.setattr("ong.curvature.fisher._signs", lambda like, g, s=signs: torch.tensor(s).to(like) + 0 * like)
        total += moment(list(cotangents(logits, kind, likelihood=likelihood))) / 2**outputs
    expected = torch.eye(outputs).expand_as(total).to(total) if kind == "logit" else output_fisher(likelihood, logits)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_mc_averages_to_the_output_fisher_within_its_standard_error(likelihood: Likelihood, outputs: int) -> None:
    draws, logits = 40_000, LOGITS[:, :outputs]
    wide = logits.repeat(draws, 1)
    (u,) = cotangents(wide, "mc", likelihood=likelihood, generator=torch.Generator().manual_seed(0))
    squares = torch.einsum("nc,nd->ncd", u, u).reshape(draws, 2, outputs, outputs)
    error = (squares.mean(0) - output_fisher(likelihood, logits)).abs()
    assert (error <= 5 * squares.std(0) / draws**0.5 + 1e-12).all()  # 18 entries: five sigma never by chance


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_mc_draws_are_the_scores_of_targets_that_can_be(likelihood: Likelihood) -> None:
    (u,) = cotangents(LOGITS.repeat(50, 1), "mc", likelihood=likelihood, generator=torch.Generator().manual_seed(0))
    mean = (LOGITS.softmax(1) if likelihood == "categorical" else LOGITS.sigmoid()).repeat(50, 1)
    y = mean - u
    torch.testing.assert_close(y, y.round(), rtol=0, atol=1e-12)
    assert set(y.round().flatten().tolist()) == {0.0, 1.0}
    assert likelihood == "bernoulli" or (y.sum(1) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["mc", "rademacher", "logit"])
def test_several_samples_are_drawn_anew_and_scaled_so_that_they_are_to_be_summed(kind: FisherType) -> None:
    sets = list(cotangents(LOGITS, kind, samples=16, generator=torch.Generator().manual_seed(0)))
    generator = torch.Generator().manual_seed(0)
    singles = [u for _ in range(16) for u in cotangents(LOGITS, kind, generator=generator)]
    assert all(torch.equal(u, single / 4) for u, single in zip(sets, singles, strict=True))
    assert not all(torch.equal(sets[0], u) for u in sets)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_fisher_of_a_net_is_that_of_each_type_on_average(likelihood: Likelihood) -> None:
    model = mlp(4, 3, 3)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = EKFAC.fit(model, [(x,)], fisher="exact", likelihood=likelihood).trace()
    for kind in ("mc", "rademacher"):
        assert needs_likelihood(kind)
        found = EKFAC.fit(model, [(x,)], fisher=kind, likelihood=likelihood, samples=500).trace()
        # 3,000 draws whose squared norm varies by about its own size: 1.8 %, five sigma
        assert found == pytest.approx(exact, rel=0.1)
    logit = EKFAC.fit(model, [(x,)], fisher="logit", likelihood=likelihood, samples=3).trace()
    assert logit == EKFAC.fit(model, [(x,)], fisher="logit", samples=3).trace()
    assert not needs_likelihood("logit")


LOSSES: dict[str, tuple[Likelihood, Any, Tensor]] = {
    "categorical": ("categorical", F.cross_entropy, torch.tensor([2, 1])),
    "class probabilities": ("categorical", F.cross_entropy, torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]]).double()),
    "bernoulli": ("bernoulli", F.binary_cross_entropy_with_logits, torch.tensor([[0, 1, 1], [1, 0, 0.3]]).double()),
    "gaussian": ("gaussian", lambda h, y, reduction: F.mse_loss(h, y, reduction=reduction) / 2, 2 * LOGITS + 1),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSES)
def test_the_residual_and_the_empirical_cotangent_are_the_gradient_of_the_loss(case: str) -> None:
    likelihood, loss, targets = LOSSES[case]
    logits = LOGITS.clone().requires_grad_()
    loss(logits, targets, reduction="sum").backward()
    torch.testing.assert_close(residual(LOGITS, targets, likelihood), logits.grad)
    (u,) = cotangents(logits, "empirical", likelihood=likelihood, targets=targets)
    torch.testing.assert_close(u, logits.grad)


def test_labels_that_a_loss_ignores_have_no_residual() -> None:
    logits = LOGITS.repeat(2, 1).requires_grad_()
    targets = torch.tensor([-100, 1, 2, -100])
    F.cross_entropy(logits, targets, reduction="sum").backward()
    found = residual(logits.detach(), targets, "categorical")
    torch.testing.assert_close(found, logits.grad)
    assert not found[[0, 3]].any()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("targets", [torch.tensor([1, 0]), torch.tensor([[1.0], [0.0]])])
def test_one_output_takes_targets_with_and_without_a_column(likelihood: Likelihood, targets: Tensor) -> None:
    h = LOGITS[:, :1]
    mean = h.sigmoid() if likelihood == "bernoulli" else h
    expected = mean - torch.tensor([[1.0], [0.0]]).double()
    torch.testing.assert_close(residual(h, targets, likelihood), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("column", [False, True])
def test_labels_of_any_integer_type_are_classes(dtype: torch.dtype, column: bool) -> None:
    model, y = mlp(4, 3, 3), torch.tensor([2, 0, 1, 1])
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = y.to(dtype)[:, None] if column else y.to(dtype)
    expected = EKFAC.fit(model, [(x, y)], fisher="empirical").trace()
    assert EKFAC.fit(model, [(x, labels)], fisher="empirical").trace() == expected
    assert EKFAC.fit(model, [[x, labels, torch.zeros(4)]], fisher="empirical").trace() == expected


def test_wrong_requests_say_what_is_right() -> None:
    with pytest.raises(UnknownNameError, match="unknown Fisher type 'exakt'; did you mean 'exact'"):
        next(cotangents(LOGITS, "exakt"))  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown likelihood 'gausian'; did you mean 'gaussian'"):
        next(cotangents(LOGITS, likelihood="gausian"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples must be at least 1"):
        next(cotangents(LOGITS, samples=0))
    with pytest.raises(ValueError, match="true targets"):
        next(cotangents(LOGITS, "empirical"))
    with pytest.raises(UserError, match=r"categorical targets are class numbers \[examples\], got \[2, 2\]"):
        residual(LOGITS, torch.zeros(2, 2), "categorical")
    with pytest.raises(UserError, match=r"gaussian targets must have the outputs' shape \[2, 3\], got \[2\]"):
        residual(LOGITS, torch.zeros(2), "gaussian")

"""The cotangents average to what their Fisher type says."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from ong.curvature import cotangents
from ong.errors import UnknownNameError

LOGITS = torch.tensor([[0.3, -1.2, 2.0], [5.0, 0.0, -5.0]], dtype=torch.float64)


def moment(sets: list[torch.Tensor]) -> torch.Tensor:
    return sum(torch.einsum("nc,nd->ncd", u, u) for u in sets)


def inner() -> torch.Tensor:
    p = torch.softmax(LOGITS, 1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def test_exact_sets_sum_to_the_output_fisher() -> None:
    sets = list(cotangents(LOGITS, "exact"))
    assert len(sets) == 3
    torch.testing.assert_close(moment(sets), inner(), rtol=0, atol=1e-15)


def test_rademacher_averages_to_the_output_fisher_over_all_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    total = torch.zeros(2, 3, 3, dtype=torch.float64)
    for signs in product((-1.0, 1.0), repeat=3):
        monkeypatch.setattr("ong.curvature.fisher._signs", lambda like, g, s=signs: torch.tensor(s).to(like) + 0 * like)
        total += moment(list(cotangents(LOGITS, "rademacher"))) / 8
    torch.testing.assert_close(total, inner(), rtol=0, atol=1e-15)


def test_mc_averages_to_the_output_fisher_within_its_standard_error() -> None:
    draws = 40_000
    wide = LOGITS.repeat(draws, 1)
    (u,) = cotangents(wide, "mc", generator=torch.Generator().manual_seed(0))
    squares = torch.einsum("nc,nd->ncd", u, u).reshape(draws, 2, 3, 3)
    error = (squares.mean(0) - inner()).abs()
    assert (error <= 5 * squares.std(0) / draws**0.5 + 1e-12).all()  # 18 entries: five sigma never by chance


def test_several_samples_are_scaled_so_that_their_sum_has_the_same_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    sets = list(cotangents(LOGITS, "logit", samples=4, generator=generator))
    assert len(sets) == 4
    torch.testing.assert_close(moment(sets).diagonal(dim1=1, dim2=2), torch.ones(2, 3, dtype=torch.float64))


def test_empirical_is_the_gradient_of_the_cross_entropy() -> None:
    logits = LOGITS.clone().requires_grad_()
    targets = torch.tensor([2, 1])
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    (u,) = cotangents(logits, "empirical", targets=targets)
    torch.testing.assert_close(u, logits.grad)


def test_wrong_requests_say_what_is_right() -> None:
    with pytest.raises(UnknownNameError, match="unknown Fisher type 'exakt'; did you mean 'exact'"):
        next(cotangents(LOGITS, "exakt"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples must be at least 1"):
        next(cotangents(LOGITS, samples=0))
    with pytest.raises(ValueError, match="true targets"):
        next(cotangents(LOGITS, "empirical"))

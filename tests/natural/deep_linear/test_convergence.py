from __future__ import annotations

import math

import pytest

from ong.natural.deep_linear import convergence_share

SEEDS = range(40)


@pytest.mark.parametrize(("n", "share"), [(1, 0.50), (4, 0.154)])
def test_papers_form_on_square_nets_converges_exactly_where_no_blow_up_is_predicted(n: int, share: float) -> None:
    result = convergence_share([n, n, n], "ngd-paper", SEEDS)
    assert result.blow_up_times is not None
    assert result.converged == tuple(math.isinf(time) for time in result.blow_up_times)
    assert result.share == result.predicted_share
    # A half by symmetry for 1-1-1, .154 by the prediction over 4,000 seeds for 4-4-4; three standard errors
    # of a share of 40 seeds (.24 and .17), which also hold the .47 and .07 of an earlier replica.
    assert result.share == pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / 40))


@pytest.mark.parametrize("n", [1, 4])
def test_minimum_norm_form_converges_from_every_seed(n: int) -> None:
    result = convergence_share([n, n, n], "ngd-min-norm", SEEDS)
    assert result.share == 1.0
    assert result.predicted_share is None


@pytest.mark.parametrize("dims", [[1, 2, 1], [4, 5, 4]])
def test_one_extra_hidden_unit_lets_papers_form_converge_from_every_seed(dims: list[int]) -> None:
    assert convergence_share(dims, "ngd-paper", SEEDS).share == 1.0

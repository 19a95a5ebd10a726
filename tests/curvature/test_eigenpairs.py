"""Eigenbases by a smaller problem where columns are constant."""

from __future__ import annotations

import pytest
import torch

from ong.curvature.eigenpairs import eigenpairs


def rows(constant: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """200 examples of 159 numbers and the bias's 1; some are constant, one of them 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 160, generator=generator, dtype=torch.float64) * 0.97 ** torch.arange(160)
    places = torch.randperm(159, generator=generator)[:constant]
    x[:, places] = scale * torch.linspace(-1, 1, constant, dtype=torch.float64).round(decimals=1)
    x[:, -1] = 1
    return x.to(dtype)


@pytest.mark.parametrize("constant", [0, 1, 21, 140, 159])
def test_it_diagonalises_the_covariance_as_the_whole_problem_does(constant: int) -> None:
    x = rows(constant)
    covariance = x.T @ x / len(x)
    _, basis = eigenpairs(covariance, torch.finfo(torch.float32).eps)
    torch.testing.assert_close(basis.T @ basis, torch.eye(160, dtype=torch.float64), rtol=0, atol=1e-12)
    turned = basis.T @ covariance @ basis
    values = turned.diagonal()
    torch.testing.assert_close(turned, values.diag(), rtol=0, atol=1e-12)
    torch.testing.assert_close(values.sort().values, torch.linalg.eigvalsh(covariance), rtol=0, atol=1e-12)


def test_float32_sums_are_split_too_and_err_by_their_rounding() -> None:
    x = rows(80, scale=0.42, dtype=torch.float32)
    covariance = (x.T @ x).double() / len(x)
    solved: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        real = torch.linalg.eigh
        patch.setattr(torch.linalg, "eigh", lambda matrix: (solved.append(len(matrix)), real(matrix))[1])
        values, basis = eigenpairs(covariance, torch.finfo(torch.float32).eps)
    assert solved == [80]  # 79 columns that vary, and one for all that do not
    turned = basis.T @ covariance @ basis
    torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=2e-6)
    torch.testing.assert_close(turned.diagonal(), values, rtol=0, atol=2e-6)  # float32's rounding, as above


def test_a_column_that_hardly_varies_is_not_taken_for_a_constant() -> None:
    x = rows(80)
    x[:, 0] = 0.4
    x[7, 0] = 0.5  # in one example of 200
    covariance = x.T @ x / len(x)
    _, basis = eigenpairs(covariance, torch.finfo(torch.float32).eps)
    turned = basis.T @ covariance @ basis
    torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-12)


def test_large_means_make_no_constants_of_columns_that_float64_tells_apart() -> None:
    x = rows(0)
    x[:, :-1] += 1000
    covariance = x.T @ x / len(x)
    _, basis = eigenpairs(covariance, torch.finfo(torch.float64).eps)
    turned = basis.T @ covariance @ basis
    torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-6)  # of 1.6e8


def test_one_large_column_makes_no_constants_of_the_others() -> None:
    x = rows(80)
    x[:, 0] = 1000 * torch.randn(200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = x.T @ x / len(x)
    _, basis = eigenpairs(covariance, torch.finfo(torch.float32).eps)
    turned = basis.T @ covariance @ basis
    torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-8)  # of 1e6

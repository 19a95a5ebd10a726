from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from ong.natural.deep_linear import DeepLinearNetwork, LinearProblem

Make = Callable[..., tuple[DeepLinearNetwork, LinearProblem]]


def random_covariance(n: int, rank: int, generator: torch.Generator) -> Tensor:
    """A covariance of given rank whose nonzero eigenvalues lie within a factor of four."""
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    values = torch.zeros(n, dtype=torch.float64)
    values[:rank] = 0.5 + 1.5 * torch.rand(rank, generator=generator, dtype=torch.float64)
    cov = (basis * values) @ basis.T
    return 0.5 * (cov + cov.T)


@pytest.fixture
def make() -> Make:
    """Draw a network and a problem with correlated inputs and correlated noise."""

    def build(
        dims: Sequence[int], *, seed: int = 0, input_rank: int | None = None
    ) -> tuple[DeepLinearNetwork, LinearProblem]:
        generator = torch.Generator().manual_seed(seed)
        network = DeepLinearNetwork.random(dims, generator=generator)
        teacher = torch.randn(dims[-1], dims[0], generator=generator, dtype=torch.float64)
        cov = random_covariance(dims[0], dims[0] if input_rank is None else input_rank, generator)
        return network, LinearProblem(cov, teacher, random_covariance(dims[-1], dims[-1], generator))

    return build

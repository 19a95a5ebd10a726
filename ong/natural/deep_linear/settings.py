"""The authors' linear settings: three architectures, correlated inputs, a random teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ong.errors import UnknownNameError, UserError
from ong.natural.deep_linear.network import DeepLinearNetwork, check_dims
from ong.natural.deep_linear.problem import LinearProblem

__all__ = ["NETS", "LinearData", "dims_of", "input_covariance", "make_data", "make_problem"]

NETS: dict[str, tuple[int, ...]] = {
    "net1": (20,) * 17,
    "net2": (20, 30, 40, 50, 60, 70, 80, 90, 100, 90, 80, 70, 60, 50, 40, 30, 20),
    "net3": (200, 80, 34, 20, 10, 5, 2, 5, 10, 20, 34, 80, 200),
}
"""Widths n_0, …, n_L: square, wide, and with a bottleneck of two (`linear.ml` of the authors' code)."""


@dataclass(frozen=True, eq=False)
class LinearData:
    """Training and test examples, one a row: inputs N × n_0, targets N × n_L."""

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def __post_init__(self) -> None:
        for name, inputs, targets in (
            ("training", self.train_inputs, self.train_targets),
            ("test", self.test_inputs, self.test_targets),
        ):
            if inputs.dim() != 2 or targets.dim() != 2 or len(inputs) != len(targets) or len(inputs) == 0:
                raise UserError(
                    f"{name} inputs and targets must be matrices with as many rows as examples; got shapes "
                    f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
                )

        if self.train_inputs.shape[1:] != self.test_inputs.shape[1:] or (
            self.train_targets.shape[1:] != self.test_targets.shape[1:]
        ):
            raise UserError("training and test examples differ in their number of inputs or outputs")

    @property
    def dims(self) -> tuple[int, int]:
        """(n_0, n_L)."""
        return self.train_inputs.shape[1], self.train_targets.shape[1]


def dims_of(setting: str | Sequence[int]) -> tuple[int, ...]:
    """Return the widths of ``net1``, ``net2`` or ``net3``, or a list of widths checked.

    Raises:
        UnknownNameError: no such setting.
        UserError: widths that describe no network.
    """
    if isinstance(setting, str):
        if setting not in NETS:
            raise UnknownNameError("deep linear setting", setting, NETS)
        return NETS[setting]
    return check_dims(setting)


def input_covariance(n: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return C, n × n, of trace n: eigenvalues ∝ 1e-3 + exp(−i/(n/5)), i = 0 … n−1, random basis."""
    device = generator.device if generator is not None else None
    index = torch.arange(n, dtype=dtype, device=device)
    values = 1e-3 + torch.exp(-index / (n / 5))
    values = values * (n / values.sum())
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=dtype, device=device))[0]
    cov: Tensor = (basis * values) @ basis.T
    return 0.5 * (cov + cov.T)


def make_problem(
    setting: str | Sequence[int],
    *,
    generator: torch.Generator | None = None,
    noise: float = 1e-3,
    dtype: torch.dtype = torch.float64,
) -> LinearProblem:
    """Draw a problem: correlated inputs and the product of a random network of the same widths as teacher.

    Args:
        setting: ``net1``, ``net2``, ``net3`` or widths.
        generator: source of randomness; its device is the problem's.
        noise: standard deviation of every output's noise, σ; Σ = σ² I and the floor of the loss is n_L σ²/2.
        dtype: of all tensors.

    Raises:
        UserError: bad widths or a noise that is not positive.
    """
    dims = dims_of(setting)
    if not noise > 0:
        raise UserError(f"the output noise must be positive; got {noise}")
    cov = input_covariance(dims[0], generator=generator, dtype=dtype)
    teacher = DeepLinearNetwork.random(dims, generator=generator, dtype=dtype).product
    return LinearProblem(cov, teacher, noise**2 * torch.eye(dims[-1], dtype=dtype, device=cov.device))


def make_data(
    problem: LinearProblem,
    *,
    generator: torch.Generator | None = None,
    train: int = 10_000,
    test: int = 1_000,
) -> LinearData:
    """Draw training and test examples of a problem; the default numbers are the authors'."""
    return LinearData(*problem.sample(train, generator=generator), *problem.sample(test, generator=generator))

"""Applying the inverse of a layer's damped curvature: from Cholesky factors, or in an eigenbasis (EKFAC)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from ong.curvature.covariances import Covariances
from ong.curvature.eigenblock import EigenBlock
from ong.curvature.factors import Factors
from ong.curvature.squares import rotated_squares
from ong.natural.online.moments import Moments

__all__ = ["EigenInverse", "KroneckerInverse", "balance_of", "damped_inverse"]


@dataclass
class KroneckerInverse:
    """G ↦ (Λ̃ + (√λ/π) I)⁻¹ G (Λ + π√λ I)⁻¹, K-FAC with factored damping; π = 1 is the paper's.

    Both inverses are formed explicitly: it costs ⅔n³ once, less than the solves of a few steps save.

    Attributes:
        inputs_inverse: ``[columns, columns]``.
        outputs_inverse: ``[rows, rows]``.
    """

    inputs_inverse: Tensor
    outputs_inverse: Tensor

    @classmethod
    def of(cls, moments: Moments, damping: float, *, balanced: bool = False) -> Self:
        """Return the inverse at the present moments.

        Args:
            moments: Λ and Λ̃.
            damping: λ > 0.
            balanced: π of :func:`balance_of` in place of 1.

        Raises:
            torch.linalg.LinAlgError: a factor that is not finite, or not positive definite in float64 either.
        """
        inputs, outputs = moments.inputs_cov, moments.outputs_cov
        balance = balance_of(inputs, outputs) if balanced else 1.0
        root = math.sqrt(damping)
        return cls(damped_inverse(inputs, root * balance), damped_inverse(outputs, root / balance))

    def solve(self, gradient: Tensor, damping: float) -> Tensor:
        """Return the preconditioned gradient ``[rows, columns]``; the damping is that of the last refresh."""
        return self.outputs_inverse @ gradient @ self.inputs_inverse

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors."""
        return {"inputs_inverse": self.inputs_inverse, "outputs_inverse": self.outputs_inverse}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return what :meth:`state_dict` described."""
        return cls(**state)


@dataclass
class EigenInverse:
    """G ↦ U_S [ (U_Sᵀ G U_A) / (E + λ) ] U_Aᵀ with E = mean_n (U_Sᵀ G_n U_A)^{∘2}: damped EKFAC.

    U_A, U_S are eigenbases of Λ, Λ̃; E is a running mean over batches like :class:`Moments`, moved along when
    the bases change, as :meth:`ong.curvature.EigenBlock.moved` does.

    Attributes:
        block: bases and Σ_k (1 − β) βⁿ⁻ᵏ E_k, everything in the moments' dtype.
        weight: 1 − βⁿ, to divide that sum by.
    """

    block: EigenBlock
    weight: float = 0.0

    @classmethod
    def of(cls, moments: Moments, before: EigenInverse | None = None) -> EigenInverse:
        """Return the inverse in the eigenbases of the present moments (eigh in float64).

        Args:
            moments: Λ and Λ̃.
            before: where to take the eigenvalues from; they move to the new bases with their trace.
        """
        dtype = moments.inputs_sum.dtype
        rounding = torch.finfo(dtype).eps
        inputs_cov = moments.inputs_cov.double()
        covs = Covariances(inputs_cov, moments.outputs_cov.double(), 1.0, rounding)
        start = EigenBlock.zero(len(covs.outputs), len(inputs_cov), inputs_cov.device)
        if before is not None:
            old = before.block.doubled()
            start = replace(
                start,
                inputs_basis=old.inputs_basis,
                inputs_values=torch.zeros_like(old.inputs_values),
                outputs_basis=old.outputs_basis,
                eigenvalues=old.eigenvalues,
            )
        block = start.moved(covs, rank=None).to(moments.inputs_sum)
        return cls(block, before.weight if before is not None else 0.0)

    def observe(self, factors: Factors, decay: float) -> None:
        """Take in one batch's E with weight 1 − ``decay``."""
        block = self.block
        squares, _ = rotated_squares(factors, block.inputs_basis, block.outputs_basis)
        seen = squares.to(block.eigenvalues) / len(factors.inputs)
        self.block = replace(block, eigenvalues=decay * block.eigenvalues + (1 - decay) * seen)
        self.weight = decay * self.weight + (1 - decay)

    def solve(self, gradient: Tensor, damping: float) -> Tensor:
        """Return the preconditioned gradient ``[rows, columns]``."""
        return self.block.operator(lambda eigenvalues: 1 / (eigenvalues / self.weight + damping))(gradient)

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and numbers."""
        return {f.name: getattr(self.block, f.name) for f in fields(EigenBlock)} | {"weight": self.weight}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return what :meth:`state_dict` described."""
        values = dict(state)
        weight = values.pop("weight")
        return cls(EigenBlock(**values), weight)


def damped_inverse(matrix: Tensor, damping: float) -> Tensor:
    """Return (M + damping · I)⁻¹ of a symmetric M by Cholesky, in float64 should its own dtype fail."""
    damped = matrix.clone()
    damped.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if not bool(failed):
        return torch.cholesky_inverse(factor)
    exact = matrix.double()
    exact.diagonal().add_(damping)
    return torch.cholesky_inverse(torch.linalg.cholesky(exact)).to(matrix)


def balance_of(inputs_cov: Tensor, outputs_cov: Tensor) -> float:
    """Return π = √(mean eigenvalue of Λ / mean eigenvalue of Λ̃), within [1e-3, 1e3].

    It makes the two cross terms of the factored damping, √λ Λ̃/… and √λ Λ, of one size.

    Source: Martens and Grosse, arXiv 1503.05671, section 6.3.
    """
    inputs, outputs = float(inputs_cov.diagonal().mean()), float(outputs_cov.diagonal().mean())
    if not (inputs > 0 and outputs > 0):
        return 1.0
    return min(max(math.sqrt(inputs / outputs), 1e-3), 1e3)

"""What a Gram matrix of directions tells: its pseudo-inverse, and which directions are the most independent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["RANK_TOLERANCE", "GramSolver", "PivotedCholesky", "pivoted_cholesky"]

RANK_TOLERANCE = 1e-6
_SPENT = 1e-12  # squared distance at which a unit direction counts as lying in the span of the others


def _normalised(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Gram of the unit directions, and what each was multiplied with (0 for a zero direction)."""
    diagonal = gram.diagonal()
    scale = torch.where(diagonal > 0, diagonal.clamp_min(torch.finfo(gram.dtype).tiny).rsqrt(), 0.0)
    return scale[:, None] * gram * scale, scale


class GramSolver:
    """K⁺ of a Gram matrix of unit-normalised directions, with a rank cut.

    K is scaled to a unit diagonal, so that the cut does not depend on how long single directions are; eigenvalues below
    ``1e-6`` of the largest are dropped. (Gram-Schmidt in one pass loses orthogonality entirely on such directions.)
    Where ‖K‖₁‖K⁻¹‖₁, which is at least the condition, shows that none is so small, K⁻¹ comes from a Cholesky
    factorisation, at a tenth of an eigendecomposition's time.

    Attributes:
        rank: independent directions kept.
        inverse: K⁺, ``[M, M]`` float64.
    """

    def __init__(self, gram: Tensor) -> None:
        """Factor a symmetric ``[M, M]`` float64 matrix."""
        self._moved: Tensor | None = None  # in float32, on a device without float64
        unit, self._scale = _normalised(gram)
        inverse, bound = _inverse(unit)
        if bound * RANK_TOLERANCE < 1:
            self.rank = len(unit)
            self.inverse = (self._scale[:, None] * inverse * self._scale).contiguous()
        else:
            values, vectors = torch.linalg.eigh(unit)
            kept = values > RANK_TOLERANCE * values[-1].clamp_min(torch.finfo(gram.dtype).tiny)
            self.rank = int(kept.sum())
            self.condition = float(values[kept][-1] / values[kept][0]) if self.rank else 1.0
            half = self._scale[:, None] * vectors[:, kept] * values[kept].rsqrt()
            self.inverse = (half @ half.T).contiguous()

    @cached_property
    def condition(self) -> float:
        """Largest over smallest eigenvalue kept of the unit directions' Gram."""
        values = torch.linalg.eigvalsh(self.inverse / self._scale[:, None] / self._scale)
        return float(values[-1] / values[0])

    def solve(self, right: Tensor) -> Tensor:
        """Return K⁺ b for b ``[M]``, in b's dtype; computed in float64 where the device has it."""
        if right.device.type == "mps":
            return self._inverse_on(right) @ right
        return (self.inverse @ right.double()).to(right)

    def _inverse_on(self, right: Tensor) -> Tensor:
        if self._moved is None:
            self._moved = self.inverse.to(right)
        return self._moved


def _inverse(unit: Tensor) -> tuple[Tensor, float]:
    """Return K⁻¹ and ‖K‖₁‖K⁻¹‖₁, infinite where K is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(unit)
    if failed or not len(unit):
        return unit, torch.inf
    inverse = torch.cholesky_inverse(factor)
    return inverse, float(torch.linalg.matrix_norm(unit, 1) * torch.linalg.matrix_norm(inverse, 1))


@dataclass(frozen=True)
class PivotedCholesky:
    """Directions in the order of their independence.

    Attributes:
        order: indices, each the direction farthest from the span of those before it; ``[K]``.
        left: Σ_m ‖r_m‖² after 0, 1, …, K pivots, r_m the part of unit direction m off their span; ``[K + 1]``.
    """

    order: Tensor
    left: Tensor

    def captured(self, count: int) -> float:
        """Return the share of the unit directions' squared length in the span of the first ``count`` pivots.

        An update v off that span moves the outputs that were stored, root mean square and per unit of their
        gradients, by at most √(1 − captured) ‖v‖: mean_m (ĝ_mᵀv)² = mean_m (r_mᵀv)² ≤ (1 − captured) ‖v‖².
        """
        return 1 - float(self.left[count] / self.left[0]) if self.left[0] > 0 else 1.0


def pivoted_cholesky(gram: Tensor, count: int) -> PivotedCholesky:
    """Order directions by independence: greedily the one with the longest part off the span of those chosen.

    With K the Gram of the unit directions, step k takes the pivot p with the largest residual d_p and

        c = (K_·p − C C_pᵀ)/√d_p,   d ← d − c∘c,   C ← [C c],

    at M·K numbers of memory and M·K² multiplications. It ends early when nothing is left off the span.

    Source: Harbrecht, Peters, Schneider, "On the low-rank approximation by the pivoted Cholesky decomposition", 2012.

    Args:
        gram: ``[M, M]`` float64.
        count: K, how many to choose at most.
    """
    unit, scale = _normalised(gram)
    left = (scale > 0).to(unit)
    count = min(count, len(unit))
    columns = unit.new_zeros(len(unit), count)
    order: list[int] = []
    traces = [left.sum()]
    for k in range(count):
        pivot = int(left.argmax())
        if left[pivot] <= _SPENT:
            break
        columns[:, k] = (unit[:, pivot] - columns[:, :k] @ columns[pivot, :k]) / left[pivot].sqrt()
        left = (left - columns[:, k].square()).clamp_min(0)
        left[pivot] = 0
        order.append(pivot)
        traces.append(left.sum())
    return PivotedCholesky(torch.tensor(order, dtype=torch.long, device=gram.device), torch.stack(traces))

"""Leading eigenpairs of a covariance that is never formed, from its product with a few random vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ong.curvature.precision import double

__all__ = ["Sketch", "is_wide", "random_vectors", "sketch_width"]

_OVERSAMPLED = 3  # random vectors a wanted eigenpair
_TIMES = 10  # columns of a wide layer in multiples of the rank
_NARROW = 1000  # columns that an eigendecomposition is cheap for


def is_wide(columns: int, rank: int | None) -> bool:
    """Return whether a covariance of so many columns is sketched rather than formed."""
    return rank is not None and columns > max(_NARROW, _TIMES * rank)


def sketch_width(rank: int) -> int:
    """Return how many random vectors a sketch takes."""
    return _OVERSAMPLED * rank


def random_vectors(columns: int, rank: int, seed: int) -> Tensor:
    """Return Ω, ``[columns, 3·rank]`` of independent normal numbers, float64; the same ones for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(columns, sketch_width(rank), generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Sketch:
    """AΩ of a symmetric positive semidefinite A, with the trace of A.

    Attributes:
        vectors: Ω, ``[columns, k]`` float64.
        image: AΩ, ``[columns, k]`` float64.
        trace: tr A, ``[]``.
    """

    vectors: Tensor
    image: Tensor
    trace: Tensor

    @classmethod
    def of_rows(cls, rows: Tensor, vectors: Tensor) -> Sketch:
        """Return the sketch of XᵀX, X ``[rows, columns]``; multiplied in X's dtype, 4·rows·columns·k operations."""
        image = rows.T @ (rows @ vectors.to(rows))
        return cls(vectors, double(image), double(rows.square().sum(1)).sum())

    def __add__(self, other: Sketch) -> Sketch:
        """Return the sketch of A + B, both of the same Ω."""
        return Sketch(self.vectors, self.image + other.image, self.trace + other.trace)

    def scaled(self, factor: float) -> Sketch:
        """Return the sketch of ``factor`` · A."""
        return Sketch(self.vectors, factor * self.image, factor * self.trace)

    def leading(self, rank: int, rounding: float) -> tuple[Tensor, Tensor]:
        """Return the leading eigenvalues ``[rank]``, falling, and eigenvectors ``[columns, rank]`` of Â.

        Â = Y(ΩᵀY)⁻¹Yᵀ − νI with Y = AΩ + νΩ is Nyström's approximation, 0 ⪯ Â ⪯ A but for rounding. The shift ν, of the
        size of Y's rounding, keeps ΩᵀY positive definite. Eigenvalues that fall fast come out exact.

        Source: Tropp, Yurtsever, Udell, Cevher, "Fixed-rank approximation of a positive-semidefinite matrix from
        streaming data", NeurIPS 2017, arXiv 1706.05736, Algorithm 3.

        Args:
            rank: at most k.
            rounding: relative, of the numbers that A was summed from.
        """
        smallest = torch.finfo(self.image.dtype).tiny ** 0.5
        shift = (rounding * torch.linalg.vector_norm(self.image)).clamp_min(smallest)
        shifted = self.image + shift * self.vectors
        core = self.vectors.T @ shifted
        factor = torch.linalg.cholesky((core + core.T) / 2)
        half = torch.linalg.solve_triangular(factor, shifted.T, upper=False).T
        vectors, lengths, _ = torch.linalg.svd(half, full_matrices=False)
        return (lengths[:rank].square() - shift).clamp_min(0), vectors[:, :rank]

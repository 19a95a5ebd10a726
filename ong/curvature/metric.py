"""The metric a step is measured in: M = I + F/λ, which leaves never-used directions as they are."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass

from torch import Tensor

from ong.curvature.blocks import Block, Vector
from ong.curvature.eigenblock import EigenBlock
from ong.curvature.ekfac import EKFAC
from ong.curvature.separable import separable

__all__ = ["BlockMetric", "Metric"]


@dataclass(frozen=True)
class BlockMetric:
    """M⁻¹ of one block in its eigenbasis.

    Attributes:
        inputs_basis: U_A, ``[columns, columns]``.
        outputs_basis: U_S, ``[rows, rows]``.
        eigenvalues: Λ, ``[rows, columns]``.
        scale: λ/(Λ+λ), ``[rows, columns]``, between 0 and 1; or PQᵀ near it.
        terms: P ``[rows, R]`` and Q ``[columns, R]`` where the scale is PQᵀ.
    """

    inputs_basis: Tensor
    outputs_basis: Tensor
    eigenvalues: Tensor
    scale: Tensor
    terms: tuple[Tensor, Tensor] | None = None

    def rotate(self, matrix: Tensor) -> Tensor:
        """Return U_Sᵀ V U_A."""
        return self.outputs_basis.T @ matrix @ self.inputs_basis

    def rotate_back(self, matrix: Tensor) -> Tensor:
        """Return U_S V U_Aᵀ."""
        return self.outputs_basis @ matrix @ self.inputs_basis.T


class Metric:
    """M = I + F/λ with F an EKFAC: M⁻¹v = λ(F+λ)⁻¹v.

    The factor λ makes the step in directions F says nothing about equal to plain SGD's, so a learning rate keeps its
    meaning whatever the damping.

    Attributes:
        blocks: M⁻¹ of each block of the model, in the dtype steps are computed in.
        damping: λ.
    """

    def __init__(
        self,
        ekfac: EKFAC,
        blocks: Mapping[str, Block],
        damping: float,
        tolerance: float = 0.0,
        near: Container[str] = (),
    ) -> None:
        """Prepare M⁻¹ for the blocks of a model.

        Args:
            ekfac: F; blocks it has never seen count as F = 0, and grown layers as zero on what they gained.
            blocks: the model's blocks.
            damping: λ > 0.
            tolerance: root mean square relative error that λ/(Λ+λ) may have where, for it, the matrix can be a sum of
                few products, see :func:`ong.curvature.separable.separable`; at 0 it is exact. M is this metric then,
                so whatever is projected in M is as exact as in any other.
            near: blocks that the tolerance is for; all others are exact.

        Raises:
            ValueError: damping that is not positive, or a negative tolerance.
        """
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping}")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance}")
        self.damping = damping
        self.blocks: dict[str, BlockMetric] = {}
        for name, block in blocks.items():
            like = block.values()
            known = ekfac.blocks.get(name) or EigenBlock.zero(*block.shape, like.device)
            eigen = known.fitted(block)
            scale = damping / (eigen.eigenvalues + damping)
            terms = separable(scale, tolerance) if name in near else None
            if terms is not None:
                p, q = (factor.to(like.device) for factor in terms)
                terms, scale = (p, q), p @ q.T
            self.blocks[name] = BlockMetric(
                eigen.inputs_basis.to(like),
                eigen.outputs_basis.to(like),
                eigen.eigenvalues.to(like),
                scale.to(like),
                terms,
            )

    def precondition(self, vector: Mapping[str, Tensor], held: Collection[str] = ()) -> Vector:
        """Return M⁻¹v, for v over all blocks or some of them.

        Args:
            vector: v.
            held: blocks whose matrices are in the eigenbasis already, and stay in it.
        """
        return self._diagonal(vector, {name: block.scale for name, block in self.blocks.items()}, held)

    def curvature(self, vector: Mapping[str, Tensor], held: Collection[str] = ()) -> Vector:
        """Return F v, whatever the tolerance; the arguments are :meth:`precondition`'s."""
        return self._diagonal(vector, {name: block.eigenvalues for name, block in self.blocks.items()}, held)

    def _diagonal(self, vector: Mapping[str, Tensor], scales: Vector, held: Collection[str]) -> Vector:
        result = {}
        for name, part in vector.items():
            block, scale = self.blocks[name], scales[name]
            result[name] = scale * part if name in held else block.rotate_back(scale * block.rotate(part))
        return result

    @property
    def bytes(self) -> int:
        """Memory of the bases and scales."""
        return sum(
            tensor.numel() * tensor.element_size()
            for block in self.blocks.values()
            for tensor in (block.inputs_basis, block.outputs_basis, block.eigenvalues, block.scale)
        )

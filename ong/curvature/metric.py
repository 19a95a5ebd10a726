"""The metric a step is measured in: M = I + F/λ, which leaves never-used directions as they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ong.curvature.blocks import Block, Vector
from ong.curvature.ekfac import EKFAC
from ong.curvature.operators import Operator

__all__ = ["Metric"]


class Metric:
    """M = I + F/λ with F an EKFAC: M⁻¹v = λ(F+λ)⁻¹v.

    The factor λ makes the step in directions F says nothing about equal to plain SGD's, so a learning rate keeps its
    meaning whatever the damping.

    Attributes:
        inverse: M⁻¹ of each block, in the dtype steps are computed in.
        fisher: F of each block.
        damping: λ.
    """

    def __init__(self, ekfac: EKFAC, blocks: Mapping[str, Block], damping: float) -> None:
        """Prepare M⁻¹ for the blocks of a model.

        Args:
            ekfac: F; blocks it has never seen count as F = 0, and grown layers as zero on what they gained.
            blocks: the model's blocks.
            damping: λ > 0.

        Raises:
            ValueError: damping that is not positive.
        """
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping}")
        self.damping = damping
        self.inverse: dict[str, Operator] = {}
        self.fisher: dict[str, Operator] = {}
        for name, block in blocks.items():
            known = ekfac.block_like(name, block)
            self.inverse[name] = known.operator(lambda eigenvalues: damping / (eigenvalues + damping))
            self.fisher[name] = known.operator(lambda eigenvalues: eigenvalues)

    def precondition(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return M⁻¹v, for v over all blocks or some of them."""
        return {name: self.inverse[name](part) for name, part in vector.items()}

    def curvature(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return F v, for v over all blocks or some of them."""
        return {name: self.fisher[name](part) for name, part in vector.items()}

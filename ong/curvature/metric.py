"""The metric a step is measured in: M = I + F/λ, which leaves never-used directions as they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

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
        self._known = {name: ekfac.block_like(name, block) for name, block in blocks.items()}
        self.inverse: dict[str, Operator] = {
            name: known.operator(lambda eigenvalues: damping / (eigenvalues + damping))
            for name, known in self._known.items()
        }

    @cached_property
    def fisher(self) -> dict[str, Operator]:
        """F of each block, made when it is first asked for."""
        return {name: known.operator(lambda eigenvalues: eigenvalues) for name, known in self._known.items()}

    def precondition(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return M⁻¹v, for v over all blocks or some of them."""
        return {name: self.inverse[name](part) for name, part in vector.items()}

    def curvature(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return F v, for v over all blocks or some of them."""
        return {name: self.fisher[name](part) for name, part in vector.items()}

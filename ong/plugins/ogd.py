"""Orthogonal Gradient Descent."""

from __future__ import annotations

from typing import Any

from ong.curvature import Unsupported, Vector
from ong.plugins.directions import DirectionPlugin
from ong.projection import DirectionKind, EuclideanProjection

__all__ = ["OGD"]


class OGD(DirectionPlugin):
    """v = (I − G(GᵀG)⁺Gᵀ) g with G the logit gradients of stored examples of the finished tasks.

    Guarantees Gᵀv = 0, so stored outputs stay still to first order, and gᵀv = ‖v‖² ≥ 0. A step costs two products with
    the factored memory, M · (rows + columns) numbers a layer.

    Source: Farajtabar, Azizan, Mott, Li, "Orthogonal Gradient Descent for Continual Learning", arXiv 1910.07104,
    Algorithm 1.

    Attributes:
        memory: G.
    """

    def __init__(
        self,
        *,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        max_directions: int | None = None,
        max_bytes: int | None = None,
        unsupported: Unsupported = "error",
        seed: int = 0,
    ) -> None:
        """Choose what is stored, and how much; the arguments are those of :class:`DirectionPlugin`.

        Raises:
            ValueError: an unknown kind, or a number below 1.
        """
        super().__init__(
            directions=directions,
            directions_per_task=directions_per_task,
            max_directions=max_directions,
            max_bytes=max_bytes,
            unsupported=unsupported,
            seed=seed,
        )

    def _prepare(self, strategy: Any) -> None:
        super()._prepare(strategy)
        self._projection = EuclideanProjection(self.memory) if len(self.memory) else None

    @property
    def _idle(self) -> bool:
        return self._projection is None

    def _update(self, gradient: Vector, strategy: Any) -> Vector | None:
        return self._projection(self._moving(gradient)) if self._projection is not None else None

    def _consolidate(self, strategy: Any) -> None:
        self._remember(strategy)

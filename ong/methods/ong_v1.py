"""Orthogonal Natural Gradient as first published."""

from __future__ import annotations

from typing import Any

from ong.curvature import FisherType, Vector
from ong.methods.data import Examples
from ong.methods.directional import DirectionMethod, Storage
from ong.methods.fishers import FisherOptions
from ong.methods.ngd import CurrentMetric
from ong.methods.room import Needs, Shapes
from ong.methods.statistics import BatchNorm
from ong.projection import DirectionKind

__all__ = ["ONGv1"]


class ONGv1(DirectionMethod):
    """v = (I − G(GᵀG)⁺Gᵀ) λ(F_c+λ)⁻¹ g: the natural gradient, then projected off the old gradients G.

    Guarantees Gᵀv = 0. Not gᵀv ≥ 0: the projection and the metric do not commute, and the step may ascend.

    Source: Yadav, Mendoza, Korrapati, "Orthogonal Natural Gradient", arXiv 2508.17169 v1.

    Attributes:
        memory: G.
        current: the metric of the current task.
    """

    keeps_outputs = True

    def __init__(
        self,
        *,
        damping: float = 0.1,
        fisher: FisherType = "logit",
        examples_per_task: int = 1000,
        samples: int = 1,
        rank: int | None = 100,
        refresh_every: int = 50,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        max_directions: int | None = None,
        max_bytes: int | None = None,
        storage: Storage = "full",
        batch_norm: BatchNorm = "freeze",
        seed: int = 0,
    ) -> None:
        """Choose metric and memory; see :class:`NGD` for the former, :class:`OGD` for the latter.

        Raises:
            UserError: an unknown choice or a number out of range.
        """
        super().__init__(
            directions=directions,
            directions_per_task=directions_per_task,
            max_directions=max_directions,
            max_bytes=max_bytes,
            storage=storage,
            batch_norm=batch_norm,
            seed=seed,
        )
        self.current = CurrentMetric(FisherOptions(fisher, examples_per_task, samples, rank), damping, refresh_every)

    def _begin(self, examples: Examples) -> None:
        super()._begin(examples)
        self.current.begin(self, examples)

    def _before_step(self) -> None:
        self.current.before_step(self)

    @property
    def is_idle(self) -> bool:
        """Never: the metric counts in the first task too."""
        return False

    def project(self, vector: Vector) -> Vector:
        """Return the natural gradient off the stored directions."""
        return super().project(self.current.precondition(vector))

    def _end(self, examples: Examples) -> None:
        self._remember(examples)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        current = self.current.needs(shapes)
        return super()._needs(shapes, examples).plus(training=current.training, ending=current.training)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        return super()._sizes(shapes) | self.current.options.sizes(shapes.blocks)

    def _state(self) -> dict[str, Any]:
        return super()._state() | self.current.state(self)

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.current.load(state)

"""The natural gradient in the metric of the finished tasks, under the constraint that stored outputs stay."""

from __future__ import annotations

from typing import Any

from ong.curvature import FisherType, Metric, Vector
from ong.methods.data import Examples
from ong.methods.directional import DirectionMethod, Storage
from ong.methods.fishers import FisherOptions
from ong.methods.ncl import PastMetric
from ong.methods.room import Needs, Shapes
from ong.methods.statistics import BatchNorm
from ong.projection import DirectionKind, MetricProjection

__all__ = ["ONGPrior"]


class ONGPrior(DirectionMethod):
    """v = M⁻¹( g − G(GᵀM⁻¹G)⁺GᵀM⁻¹g ), M = I + F/λ, with F the finished tasks' EKFAC and G their stored gradients.

    v is the steepest descent, in the metric of what has been learned, among the steps that leave the stored outputs
    alone: argmin −gᵀv + ½vᵀMv subject to Gᵀv = 0. Guarantees both Gᵀv = 0 and gᵀv = vᵀMv ≥ 0. Without F it is OGD,
    without G the natural gradient in the finished tasks' metric (:class:`NCL` with ``pull=0``).

    With a ``pull`` γ, g + γF(θ − μ) takes the place of g, μ the weights after the last task: Gᵀv = 0 still holds, and
    descent is of the penalised loss. It lets λ stay larger, so that later tasks go on learning.

    Source: this project, docs/methods.md; the prior's metric follows Kao et al., arXiv 2106.08085.

    Attributes:
        memory: G.
        past: M and μ.
    """

    keeps_outputs = True

    def __init__(
        self,
        *,
        damping: float = 0.1,
        pull: float = 0.0,
        fisher: FisherType = "logit",
        examples_per_task: int = 1000,
        samples: int = 1,
        rank: int | None = 100,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        max_directions: int | None = None,
        max_bytes: int | None = None,
        storage: Storage = "full",
        batch_norm: BatchNorm = "freeze",
        seed: int = 0,
    ) -> None:
        """Choose metric and memory.

        Args:
            damping: λ > 0, in units of the Fisher's eigenvalues.
            pull: γ ≥ 0.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a λ about 100 times that of
                the others.
            examples_per_task: training examples of a finished task that its Fisher is taken from.
            samples: random draws an example for the random Fisher types.
            rank: leading columns of each layer's inputs that keep eigenvalues of their own; None keeps all.
            directions: kind of direction, see :func:`ong.projection.collect_directions`.
            directions_per_task: examples of a finished task whose directions are stored.
            max_directions: most directions kept; past it the most independent ones stay.
            max_bytes: most bytes of directions kept, likewise (neither their Gram nor the EKFAC counted).
            storage: ``"full"``, or ``"half"`` for directions rounded to 11 bits and kept in float16, see
                :class:`ong.methods.directional.DirectionMethod`.
            batch_norm: ``"freeze"`` holds running statistics still after the first task, ``"update"`` does not.
            seed: the examples drawn and the random cotangents.

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
        self.past = PastMetric(FisherOptions(fisher, examples_per_task, samples, rank), damping, pull)
        self.adds_to_gradients = pull > 0

    def _begin(self, examples: Examples) -> None:
        self.likelihood(examples, self.past.options.fisher)  # that it can be told shows before training
        self.past.begin(self)
        super()._begin(examples)

    def _projector(self) -> MetricProjection | None:
        metric = self.past.metric
        if metric is None or not len(self.memory):
            return None
        return MetricProjection(self.memory, metric, self._worked())

    def force(self, gradient: Vector) -> Vector:
        """Return g + γF(θ − μ)."""
        return self.past.pulled(self, gradient)

    def _end(self, examples: Examples) -> None:
        self._remember(examples)
        self.past.end(self, examples)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        past, directions = self.past.needs(shapes), super()._needs(shapes, examples)
        images = directions.kept  # M⁻¹G takes no more than G
        return directions.plus(kept=past.kept, training=past.training + images, ending=past.ending)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        return super()._sizes(shapes) | self.past.options.sizes(shapes.blocks)

    @property
    def past_metric(self) -> tuple[Metric, FisherType] | None:
        """M and the type of its Fisher."""
        return None if self.past.metric is None else (self.past.metric, self.past.options.fisher)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the stored directions, of F and of μ."""
        return super().memory_bytes + self.past.bytes

    def _state(self) -> dict[str, Any]:
        return super()._state() | self.past.state()

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.past.load(state)

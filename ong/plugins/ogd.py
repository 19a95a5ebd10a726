"""Orthogonal Gradient Descent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ong.curvature import Unsupported, Vector
from ong.plugins.directions import DirectionPlugin
from ong.plugins.eigenbasis import why_not
from ong.plugins.examples import draw_examples
from ong.plugins.shadow import Shadow
from ong.projection import DirectionKind, DirectionMemory, EuclideanProjection

__all__ = ["OGD"]


class OGD(DirectionPlugin):
    """v = (I − G(GᵀG)⁺Gᵀ) g with G the logit gradients of stored examples of the finished tasks.

    Guarantees Gᵀv = 0, so stored outputs stay still to first order, and gᵀv = ‖v‖² ≥ 0. A step costs two products with
    the factored memory, M · (rows + columns) numbers a layer.

    Source: Farajtabar, Azizan, Mott, Li, "Orthogonal Gradient Descent for Continual Learning", arXiv 1910.07104,
    Algorithm 1.

    With ``recompute`` it is OGD+: the examples themselves are stored, and after each task the gradients of *all* of
    them are taken anew at the weights of that moment, in place of those taken before. G is then that of the present
    network rather than of networks long gone, so old outputs stay still to first order around the weights each task
    starts from; the price is that past examples are kept, and one pass over all of them a task.

    Source of OGD+: Abbana Bennani, Doan, Sugiyama, "Generalisation guarantees for continual learning with orthogonal
    gradient descent", arXiv 2006.11942, as in the authors' code (continual-learning-ogdplus, ``ogd_core_new.py``:
    the basis is rebuilt from the memory of all tasks).

    Attributes:
        memory: G.
        examples: the stored examples in batches; empty without ``recompute``.
    """

    def __init__(
        self,
        *,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        max_directions: int | None = None,
        max_bytes: int | None = None,
        recompute: bool = False,
        unsupported: Unsupported = "error",
        seed: int = 0,
    ) -> None:
        """Choose what is stored, how much of it, and when it is taken.

        Args:
            directions: kind of direction.
            directions_per_task: training examples drawn from each finished task.
            max_directions: most directions kept.
            max_bytes: most bytes of directions kept.
            recompute: store the examples and take all their gradients anew after each task (OGD+).
            unsupported: ``"error"`` or ``"ignore"`` for layers of unknown type.
            seed: which examples are drawn.

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
        self.recompute = recompute
        self.examples: list[list[Tensor]] = []
        self._shadows: list[Shadow] = []

    def _prepare(self, strategy: Any) -> None:
        super()._prepare(strategy)
        self._projection = EuclideanProjection(self.memory) if len(self.memory) else None
        self._close_shadows()  # of a task that was interrupted
        if self._projection is not None and why_not(strategy, self) is None:
            self._shadows = Shadow.of(strategy, self._blocks, self.memory)

    def _close_shadows(self) -> None:
        for shadow in self._shadows:
            shadow.close()
        self._shadows = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Prepare the task, and what is worked out once from its inputs."""
        super().before_training_exp(strategy, **kwargs)
        for shadow in self._shadows:
            strategy.dataloader = shadow.enrich(strategy)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Let layers be held as :class:`ong.plugins.shadow.Shadow` does."""
        for shadow in self._shadows:
            shadow.enter()
            shadow.watch(strategy)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """The strategy's own forward is over."""
        for shadow in self._shadows:
            shadow.look_away()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Put the weights back for whoever looks between epochs."""
        for shadow in self._shadows:
            shadow.leave()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Keep the task's directions, taken at the original weights."""
        if self._boundaries.ends(strategy.experience):
            self._close_shadows()
        super().after_training_exp(strategy, **kwargs)

    def _rewrite(self, strategy: Any) -> None:
        if self._shadows and self._step_in_coefficients():
            return
        self._close_shadows()  # from now on two products with the memory, in the original weights
        super()._rewrite(strategy)

    def _step_in_coefficients(self) -> bool:
        """Take the step where layers are held in coefficients; say whether it was taken."""
        projection, moving = self._projection, {n for n, block in self._blocks.items() if block.has_gradient}
        assert isinstance(projection, EuclideanProjection)
        if not self.memory.rows.keys() <= moving:
            return False  # G is restricted to what moves
        known = [part for shadow in self._shadows if (part := shadow.products()) is not None]
        if len(known) < len(self._shadows):
            return False
        others = self.memory.rows.keys() - {shadow.name for shadow in self._shadows}
        gradient = {name: self._blocks[name].gradient(held=True) for name in self.memory.rows if name in others}
        step = projection.coefficients(gradient, known[0] if len(known) == 1 else torch.stack(known).sum(0))
        for shadow in self._shadows:
            shadow.move(step)
        for name in gradient:
            self._blocks[name].take_from_gradient(self.memory.rows[name].combine(step))
        return True

    @property
    def _idle(self) -> bool:
        return self._projection is None

    def _update(self, gradient: Vector, strategy: Any) -> Vector | None:
        return self._projection(self._moving(gradient)) if self._projection is not None else None

    def _consolidate(self, strategy: Any) -> None:
        if self.recompute:
            self.examples += [list(part) for part in draw_examples(strategy, self.directions_per_task, self._choice)]
            self.memory, self.directions_dropped = DirectionMemory(), 0
        self._remember(strategy, batches=self.examples if self.recompute else None)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the stored directions, and of the stored examples."""
        return self.memory.bytes + sum(t.numel() * t.element_size() for batch in self.examples for t in batch)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task."""
        return super().state_dict() | {"examples": [list(batch) for batch in self.examples]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.examples = [list(batch) for batch in state["examples"]]

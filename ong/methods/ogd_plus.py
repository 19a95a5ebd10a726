"""OGD+: orthogonal gradient descent with directions of the present network."""

from __future__ import annotations

from typing import Any

from ong.curvature import Batch, batch_size
from ong.methods.data import Examples
from ong.methods.directional import DirectionMethod, Storage
from ong.methods.packing import pack_nested, packed_bytes
from ong.methods.room import Needs, Shapes
from ong.methods.statistics import BatchNorm
from ong.projection import DirectionKind, DirectionMemory

__all__ = ["OGDPlus"]


class OGDPlus(DirectionMethod):
    """OGD whose examples are stored, and whose G is taken anew from all of them after each task.

    v = (I − G(GᵀG)⁺Gᵀ) g as in :class:`OGD`, with the gradients of every stored example at the weights each task starts
    from, rather than at those of networks long gone. Old outputs stay still to first order around these weights. The
    price is that past examples are kept, and one pass over all of them a task.

    Source: Abbana Bennani, Doan, Sugiyama, "Generalisation guarantees for continual learning with orthogonal gradient
    descent", arXiv 2006.11942, as in the authors' code (continual-learning-ogdplus, ``ogd_core_new.py``: the basis is
    rebuilt from the memory of all tasks).

    Attributes:
        memory: G.
        stored: the stored examples in batches.
    """

    keeps_outputs = True

    def __init__(
        self,
        *,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        max_directions: int | None = None,
        max_bytes: int | None = None,
        storage: Storage = "full",
        batch_norm: BatchNorm = "freeze",
        seed: int = 0,
    ) -> None:
        """Choose what is stored, and how much of it.

        Args:
            directions: kind of direction, see :func:`ong.projection.collect_directions`.
            directions_per_task: training examples stored of each finished task.
            max_directions: most directions kept; past it the most independent ones stay.
            max_bytes: most bytes of directions kept, likewise; the stored examples come on top.
            storage: ``"full"``, or ``"half"`` for directions rounded to 11 bits and kept in float16, see
                :class:`ong.methods.directional.DirectionMethod`.
            batch_norm: ``"freeze"`` holds running statistics still after the first task, ``"update"`` does not.
            seed: which examples are drawn.

        Raises:
            UserError: an unknown kind, or a number below 1.
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
        self.stored: list[Batch] = []

    def _end(self, examples: Examples) -> None:
        self.stored += examples.draw(self.directions_per_task, self._choice)
        self.memory, self.directions_dropped = DirectionMemory(), 0
        self._remember(examples, batches=self.stored)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        batch = self.network.probe(examples)
        most = self.directions_per_task if examples.count is None else min(self.directions_per_task, examples.count)
        each = packed_bytes(pack_nested(batch)) // batch_size(batch)
        return super()._needs(shapes, examples).plus(kept=shapes.tasks * most * each)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the stored directions, and of the stored examples, all packed."""
        return super().memory_bytes + packed_bytes(pack_nested(self.stored))

    def statistics(self) -> dict[str, float]:
        """Return numbers about the memory, the number of stored examples among them."""
        return super().statistics() | {"examples": sum(batch_size(batch) for batch in self.stored)}

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"stored": list(self.stored)}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.stored = list(state["stored"])

"""What plugins with a memory of directions share: collecting, bounding, estimating, reporting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ong.curvature import Batch, Unsupported
from ong.errors import UserError
from ong.plugins.base import GradientPlugin
from ong.plugins.boundaries import task_of
from ong.plugins.budget import available_bytes, most_directions, needed_bytes, readable, stream_length
from ong.plugins.examples import draw_examples, forward_of
from ong.projection import (
    Bounds,
    DirectionKind,
    DirectionMemory,
    EuclideanProjection,
    FactoredRows,
    MetricProjection,
    Rows,
    check_directions,
    collect_directions,
)

__all__ = ["DirectionPlugin"]


class DirectionPlugin(GradientPlugin):
    """Keeps directions of finished tasks, within bounds, and projects off them.

    Attributes:
        memory: G, the stored directions.
        bounds: how much it may hold.
        directions_dropped: how many directions the bounds have cost so far.
        directions_captured: the share of the last task's memory, before the bounds, that the kept directions span.
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
        """Choose what is stored, and how much.

        Args:
            directions: ``gtl`` (the true logit), ``ave``, ``all`` or ``loss``, see
                :func:`ong.projection.collect_directions`.
            directions_per_task: training examples drawn from each finished task; ``all`` stores one direction a class
                and example.
            max_directions: most directions kept; past it the most independent ones stay.
            max_bytes: most bytes of directions kept, likewise (their Gram, 8 M² bytes, comes on top).
            unsupported: ``"error"`` or ``"ignore"`` for layers of unknown type.
            seed: which examples are drawn.

        Raises:
            ValueError: an unknown kind, or a number below 1.
        """
        super().__init__(unsupported=unsupported, seed=seed)
        check_directions(directions)
        if directions_per_task < 1:
            raise ValueError(f"directions_per_task must be at least 1, got {directions_per_task}")
        self.directions: DirectionKind = directions
        self.directions_per_task = directions_per_task
        self.bounds = Bounds(max_directions, max_bytes)
        self.memory = DirectionMemory()
        self.directions_dropped = 0
        self.directions_captured = 1.0
        self._projection: EuclideanProjection | MetricProjection | None = None
        self._estimated = False

    def _prepare(self, strategy: Any) -> None:
        self._fit_memory(strategy)
        if not self._estimated and not len(self.memory):
            self._check_room(strategy)
            self._estimated = True

    def _fit_memory(self, strategy: Any) -> None:
        self.memory.fit_to(self._blocks)

    def _collect(self, strategy: Any, batch: Any) -> dict[str, Rows]:
        return collect_directions(
            strategy.model,
            batch,
            kind=self.directions,
            blocks=self._blocks,
            forward=lambda batch: forward_of(strategy, batch),
        )

    def _remember(
        self,
        strategy: Any,
        kept_as: Callable[[dict[str, Rows]], dict[str, Rows]] = dict,
        batches: Sequence[Batch] | None = None,
    ) -> None:
        """Add the directions of examples, newly drawn from the finished task or given, and keep within the bounds."""
        if batches is None:
            batches = draw_examples(strategy, self.directions_per_task, self._choice)
        for batch in batches:
            self.memory.extend(kept_as(self._collect(strategy, batch)), self._blocks)
        before = len(self.memory)
        self.memory, self.directions_captured = self.bounds.apply(self.memory)
        self.directions_dropped += before - len(self.memory)

    def _check_room(self, strategy: Any) -> None:
        """Estimate what the stream's tasks will leave, from the directions of two examples, and stop if it cannot fit.

        Raises:
            UserError: more than the memory available, or a ``max_bytes`` that holds not one direction.
        """
        batch = draw_examples(strategy, 2, torch.Generator().manual_seed(0))[0]  # leaves the plugin's generators alone
        sample = DirectionMemory(self._collect(strategy, batch))
        if not len(sample):
            return
        examples = min(self.directions_per_task, len(task_of(strategy.experience).dataset))
        a_task = examples * len(sample) // len(batch[0])
        of_a_task = self._bytes_a_task(sample.rows, a_task)
        each = of_a_task // a_task
        if self.bounds.max_bytes is not None and each > self.bounds.max_bytes:
            raise UserError(
                f"max_bytes={self.bounds.max_bytes} holds not one direction of this model, which takes {each} bytes"
            )
        tasks = stream_length(strategy.experience)
        held = tasks * a_task
        if self.bounds.max_directions is not None:
            held = min(held, self.bounds.max_directions + a_task)
        if self.bounds.max_bytes is not None:
            held = min(held, self.bounds.max_bytes // each + a_task)
        copies = sum(self._copies(rows) * rows.bytes for rows in sample.rows.values()) / sample.bytes
        needed = needed_bytes(int(copies * (held * of_a_task // a_task)), held)
        available = available_bytes(torch.device(strategy.device))
        if needed > available:
            room = max(most_directions(int(copies * each), available) - a_task, 0)
            few = f"max_directions={room} (or max_bytes={room * each}) or " if room else ""
            kind = " or directions='gtl'" if self.directions == "all" else ""
            raise UserError(
                f"{type(self).__name__}: {tasks} tasks of {a_task} directions, {readable(each)} each, need up to "
                f"{readable(needed)} of memory, and {readable(available)} are available; pass {few}a lower "
                f"directions_per_task{kind}"
            )

    def _copies(self, rows: Rows) -> int:
        """Return how many copies of a block's directions there are at a time: when more are added, and for products."""
        return 3 if isinstance(rows, FactoredRows) else 2

    def _bytes_a_task(self, sample: Mapping[str, Rows], count: int) -> int:
        """Return the bytes that ``count`` directions take, from a few of them."""
        return sum(count * rows.bytes // len(rows) for rows in sample.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of the stored directions."""
        return self.memory.bytes

    def statistics(self) -> dict[str, float]:
        """Return numbers about the memory, and the rank and condition of the projection of the task in training."""
        kept = {
            "directions": len(self.memory),
            "directions_dropped": self.directions_dropped,
            "directions_captured": self.directions_captured,
        }
        solver = self._projection.solver if self._projection is not None else None
        factored = {"rank": solver.rank, "condition": solver.condition} if solver is not None else {}
        return super().statistics() | kept | factored

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task."""
        return super().state_dict() | {
            "memory": self.memory.state_dict(),
            "directions_dropped": self.directions_dropped,
            "directions_captured": self.directions_captured,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.memory = DirectionMemory.from_state_dict(state["memory"])
        self.directions_dropped = state["directions_dropped"]
        self.directions_captured = state["directions_captured"]

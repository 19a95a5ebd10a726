"""Leak and descent cosine of the steps a strategy really takes, whatever its method."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from avalanche.core import SupervisedPlugin

from ong.curvature import Block, UnsupportedLayerError, Vector, find_blocks, inner, norm
from ong.plugins.base import draw_examples, forward_of
from ong.projection import DirectionMemory, EuclideanProjection, collect_directions

__all__ = ["Diagnostics"]


class Diagnostics(SupervisedPlugin):  # type: ignore[misc]
    """Measures each ``every``-th step v = θ_before − θ_after against the gradient g of the loss and the old tasks.

    * **leak** ‖Q_Gᵀv‖/‖v‖, Q_G an orthonormal basis of the true-logit gradients of examples of the finished tasks: the
      share of the step that moves their outputs at first order. The examples are those that OGD and ONG with the same
      seed store, so it is 0 for what projects off them.
    * **leak_unseen**: the same for as many other training examples of those tasks.
    * **descent_cosine** gᵀv/(‖g‖‖v‖): below 0 the step ascends the loss.

    Put it first in the list of plugins, so that it sees the gradient before any plugin changes it. It works with every
    strategy, changes nothing, and draws from its own generator. Models without a supported layer are not measured.

    Attributes:
        measures: by name, the mean over the measured steps of each finished experience; None where there is no past.
    """

    def __init__(self, *, every: int = 25, directions_per_task: int = 100, seed: int = 0) -> None:
        """Choose how often to look and how many examples of a task to keep directions of.

        Raises:
            ValueError: a number below 1.
        """
        super().__init__()
        if every < 1 or directions_per_task < 1:
            raise ValueError(f"every and directions_per_task must be at least 1, got {every}, {directions_per_task}")
        self.every, self.directions_per_task = every, directions_per_task
        self.measures: dict[str, list[float | None]] = {"leak": [], "leak_unseen": [], "descent_cosine": []}
        self._memories = {"leak": DirectionMemory(), "leak_unseen": DirectionMemory()}
        self._generator = torch.Generator().manual_seed(seed)
        self._blocks: dict[str, Block] = {}
        self._projections: dict[str, EuclideanProjection] = {}
        self._step = 0
        self._steps_seen: list[dict[str, float]] = []
        self._gradient: Vector | None = None
        self._before: Vector = {}

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Find the layers and prepare the yardsticks."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._blocks = find_blocks(strategy.model, "ignore")
        except UnsupportedLayerError:
            self._blocks = {}
        for memory in self._memories.values():
            memory.fit_to(self._blocks)
        self._projections = {name: EuclideanProjection(m) for name, m in self._memories.items() if len(m)}
        self._step, self._steps_seen = 0, []

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Note gradient and weights of a step that is to be measured."""
        self._gradient = None
        if self._blocks and self._step % self.every == 0:
            self._gradient = {name: block.gradient() for name, block in self._blocks.items()}
            self._before = {name: block.values() for name, block in self._blocks.items()}
        self._step += 1

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Measure the step."""
        if self._gradient is None:
            return
        step = {name: self._before[name] - block.values() for name, block in self._blocks.items()}
        lengths = float(norm(step) * norm(self._gradient))
        if lengths > 0:
            seen = {name: projection.captured(step) for name, projection in self._projections.items()}
            self._steps_seen.append(seen | {"descent_cosine": float(inner(self._gradient, step)) / lengths})
        self._gradient = None

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Average over the experience, and keep its directions for the next ones."""
        for name, means in self.measures.items():
            values = [seen[name] for seen in self._steps_seen if name in seen]
            means.append(sum(values) / len(values) if values else None)
        if not self._blocks:
            return
        batches = draw_examples(strategy, 2 * self.directions_per_task, self._generator)
        columns = [torch.cat(parts) for parts in zip(*batches, strict=True)]
        first, last = slice(0, self.directions_per_task), slice(self.directions_per_task, None)
        for name, part in (("leak", first), ("leak_unseen", last)):
            batch = [column[part] for column in columns]
            if len(batch[0]):
                rows = collect_directions(
                    strategy.model, batch, blocks=self._blocks, forward=lambda batch: forward_of(strategy, batch)
                )
                self._memories[name].extend(rows, self._blocks)

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept from task to task."""
        return {
            "measures": {name: list(values) for name, values in self.measures.items()},
            "memories": {name: memory.state_dict() for name, memory in self._memories.items()},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.measures = {name: list(values) for name, values in state["measures"].items()}
        self._memories = {name: DirectionMemory.from_state_dict(m) for name, m in state["memories"].items()}
        self._generator.set_state(state["generator"])

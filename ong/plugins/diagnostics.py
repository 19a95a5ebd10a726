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

    * **leak** ‖Q_Gᵀv‖/‖v‖, Q_G an orthonormal basis of the true-logit gradients of stored examples of the finished
      tasks: the share of the step that moves old outputs at first order (0 for OGD, up to 1);
    * **descent cosine** gᵀv/(‖g‖‖v‖): below 0 the step ascends the loss.

    Put it first in the list of plugins, so that it sees the gradient before any plugin changes it. It works with every
    strategy, changes nothing, and draws from its own generator. Models without a supported layer are not measured.

    Attributes:
        leak: mean over the measured steps of each finished experience; None for the first, which has no past.
        descent_cosine: the same for the cosine.
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
        self.leak: list[float | None] = []
        self.descent_cosine: list[float | None] = []
        self._memory = DirectionMemory()
        self._generator = torch.Generator().manual_seed(seed)
        self._blocks: dict[str, Block] = {}
        self._projection: EuclideanProjection | None = None
        self._step = 0
        self._seen: list[tuple[float | None, float]] = []
        self._gradient: Vector | None = None
        self._before: Vector = {}

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Find the layers and prepare the yardstick."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._blocks = find_blocks(strategy.model, "ignore")
        except UnsupportedLayerError:
            self._blocks = {}
        self._memory.fit_to(self._blocks)
        self._projection = EuclideanProjection(self._memory) if len(self._memory) else None
        self._step, self._seen = 0, []

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
            leak = self._projection.captured(step) if self._projection is not None else None
            self._seen.append((leak, float(inner(self._gradient, step)) / lengths))
        self._gradient = None

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Average over the experience, and keep its directions for the next ones."""
        leaks = [leak for leak, _ in self._seen if leak is not None]
        self.leak.append(sum(leaks) / len(leaks) if leaks else None)
        self.descent_cosine.append(sum(c for _, c in self._seen) / len(self._seen) if self._seen else None)
        if not self._blocks:
            return
        for batch in draw_examples(strategy, self.directions_per_task, self._generator):
            rows = collect_directions(
                strategy.model, batch, blocks=self._blocks, forward=lambda batch: forward_of(strategy, batch)
            )
            self._memory.extend(rows, self._blocks)

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept from task to task."""
        return {
            "leak": list(self.leak),
            "descent_cosine": list(self.descent_cosine),
            "memory": self._memory.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.leak, self.descent_cosine = list(state["leak"]), list(state["descent_cosine"])
        self._memory = DirectionMemory.from_state_dict(state["memory"])
        self._generator.set_state(state["generator"])

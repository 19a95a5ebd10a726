"""Leak and descent cosine of the steps a strategy really takes, whatever its method."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name
from avalanche.models.utils import avalanche_forward
from torch import Tensor

from ong.curvature import PROBED, Batch, Block, Vector, checked_logits, cover, inner, norm
from ong.errors import NotFiniteError, UserError
from ong.methods import Examples
from ong.plugins.adapter import MethodPlugin
from ong.plugins.boundaries import ExperienceRows, task_of
from ong.plugins.diagnostics.base import Diagnostic
from ong.projection import Bounds, DirectionMemory, EuclideanProjection, collect_directions

__all__ = ["Diagnostics"]

_MEASURES = ("leak", "leak_unseen", "descent_cosine", "rank", "space_left", "condition")
_OF_THE_PROJECTION = ("rank", "space_left", "condition")


class Diagnostics(Diagnostic):
    """Measures each ``every``-th step v = θ_before − θ_after against the gradient g of the loss and the old tasks.

    * **leak** ‖Q_Gᵀv‖/‖v‖, Q_G an orthonormal basis of the true-logit gradients of examples of the finished tasks: the
      share of the step that moves their outputs at first order. The examples are those that OGD and ONG with the same
      seed store, so it is 0 for what projects off them.
    * **leak_unseen**: the same for as many other training examples of those tasks, the last that would be stored if
      more were.
    * **descent_cosine** gᵀv/(‖g‖‖v‖): below 0 the step ascends the loss.
    * **rank** and **condition** of the Gram that the strategy's own method projects with, where one does, and
      **space_left** 1 − rank/parameters, the share of the space that is left to learn in.

    Put it first in the list of plugins, so that it sees the gradient before any plugin changes it. It works with every
    strategy, changes nothing, and draws from its own generator. Models whose outputs are not ``[N, C]``, or mix the
    examples of a batch, are not measured.

    Each measured step is published to the strategy's evaluator too, as ``leak/train_phase/train_stream`` and so on, so
    that every Avalanche logger shows it.

    Attributes:
        steps: the measured steps, each with its ``task``, counted from 0, its ``step`` in that task, and what was
            measured.
        measures: by name, the mean over the measured steps of each finished task; None where there is nothing to
            measure.
    """

    def __init__(
        self, *, every: int = 25, directions_per_task: int = 100, max_directions: int | None = None, seed: int = 0
    ) -> None:
        """Choose how often to look and how many examples of a task to keep directions of.

        Args:
            every: steps from one measured step to the next.
            directions_per_task: examples of a task that are kept for the leak, and as many for the unseen one.
            max_directions: most directions kept for each of the two; past it the most independent ones stay.
            seed: which examples are drawn.

        Raises:
            ValueError: a number below 1.
        """
        super().__init__()
        if every < 1 or directions_per_task < 1:
            raise ValueError(f"every and directions_per_task must be at least 1, got {every}, {directions_per_task}")
        self.every, self.directions_per_task = every, directions_per_task
        self.bounds = Bounds(max_directions)
        self.steps: list[dict[str, float]] = []
        self.measures = {name: [] for name in _MEASURES}
        self._memories = {"leak": DirectionMemory(), "leak_unseen": DirectionMemory()}
        self._generator = torch.Generator().manual_seed(seed)
        self._blocks: dict[str, Block] = {}
        self._projections: dict[str, EuclideanProjection] = {}
        self._step = 0
        self._resumed = True  # nothing is prepared yet
        self._gradient: Vector | None = None
        self._before: Vector = {}

    @property
    def tasks(self) -> int:
        """Number of finished tasks."""
        return len(self.measures["leak"])

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Find the layers and prepare the yardsticks."""
        begins = self._boundaries.begins(strategy.experience)
        if begins and not self._resumed:
            self._step = 0
        if begins or self._resumed:
            self._find_blocks(strategy)
            for memory in self._memories.values():
                memory.fit_to(self._blocks)
            self._projections = {name: EuclideanProjection(m) for name, m in self._memories.items() if len(m)}
        self._resumed = False

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
            seen["descent_cosine"] = float(inner(self._gradient, step)) / lengths
            seen |= _of_projection(strategy)
            self.steps.append({"task": self.tasks, "step": self._step - 1, **seen})
            self._publish(strategy, seen)
        self._gradient, self._before = None, {}

    def end_task(self, strategy: Any) -> dict[str, float | None]:
        """Average over the task that ends here, and keep its directions for the next ones."""
        of_task = [seen for seen in self.steps if seen["task"] == self.tasks]
        values = {name: [seen[name] for seen in of_task if name in seen] for name in self.measures}
        self._step = 0
        self._find_blocks(strategy)
        if self._blocks:
            self._remember(strategy)
        return {name: sum(seen) / len(seen) for name, seen in values.items() if seen}

    def _examples(self, strategy: Any) -> Examples:
        return Examples(ExperienceRows(task_of(strategy.experience)), torch.device(strategy.device))

    def _find_blocks(self, strategy: Any) -> None:
        try:
            probe = self._examples(strategy).draw(PROBED, torch.Generator().manual_seed(0), shared=False)[0]
            self._blocks = cover(strategy.model, lambda batch: _forward(strategy, batch), probe)
        except (UserError, NotFiniteError, AssertionError):  # iCaRL's model fails in eval mode at first
            self._blocks = {}

    def _remember(self, strategy: Any) -> None:
        examples, count = self._examples(strategy), self.directions_per_task
        batches = examples.draw(count, self._generator, far=count, shared=False)
        columns = [torch.cat(parts) for parts in zip(*batches, strict=True)]
        first, last = slice(0, self.directions_per_task), slice(self.directions_per_task, None)
        for name, part in (("leak", first), ("leak_unseen", last)):
            batch = [column[part] for column in columns]
            if len(batch[0]):
                rows = collect_directions(
                    strategy.model, batch, blocks=self._blocks, forward=lambda batch: _forward(strategy, batch)
                )
                self._memories[name].extend(rows, self._blocks)
                self._memories[name], _ = self.bounds.apply(self._memories[name])

    def _publish(self, strategy: Any, seen: dict[str, float]) -> None:
        evaluator = getattr(strategy, "evaluator", None)
        if evaluator is None or not evaluator.active:
            return
        for name, value in seen.items():
            title = get_metric_name(name, strategy, add_experience=False, add_task=False)
            evaluator.publish_metric_value(MetricValue(self, title, value, strategy.clock.train_iterations))

    def kept(self) -> dict[str, Any]:
        """Return what is kept from task to task and from step to step, besides the measures."""
        return {
            "steps": [dict(seen) for seen in self.steps],
            "memories": {name: memory.state_dict() for name, memory in self._memories.items()},
            "generator": self._generator.get_state(),
            "step": self._step,
        }

    def keep(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`kept` returned."""
        self.steps = [dict(seen) for seen in state["steps"]]
        self._memories = {name: DirectionMemory.from_state_dict(m) for name, m in state["memories"].items()}
        self._generator.set_state(state["generator"])
        self._step = state["step"]
        self._resumed = True


def _forward(strategy: Any, batch: Batch) -> Tensor:
    return checked_logits(avalanche_forward(strategy.model, batch[0], batch[-1]), batch)


def _of_projection(strategy: Any) -> dict[str, float]:
    """Return rank, space left and condition of the first projection among a strategy's plugins."""
    for plugin in strategy.plugins:
        if isinstance(plugin, MethodPlugin):
            statistics = plugin.statistics()
            if "rank" in statistics:
                return {name: statistics[name] for name in _OF_THE_PROJECTION if name in statistics}
    return {}

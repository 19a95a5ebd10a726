"""The plugins a run adds to a strategy: accuracies, a guard against divergence, progress."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin

from ong.experiments.stopped import StoppedError
from ong.plugins.boundaries import Boundaries, task_of

__all__ = ["AccuracyRecorder", "DivergenceError", "DivergenceGuard", "FewSteps", "MeanLoss", "NoMetrics", "StepCounter"]


class DivergenceError(StoppedError):
    """The loss or the outputs of a run are not finite."""

    def __init__(self, what: str, task: int, step: int) -> None:
        """Name the place: task counted from 0, step in it counted from 1, 0 while evaluating after it."""
        where = f"task {task}, step {step}" if step else f"the evaluation after task {task}"
        super().__init__(
            f"{what} at {where}; lower optimizer.lr or a penalty's strength, or raise the damping", task=task, step=step
        )


def _task(strategy: Any) -> int:
    """Return the number of the task in training, which in an online stream comes in pieces."""
    if isinstance(strategy.experience, OnlineCLExperience):
        return int(task_of(strategy.experience).current_experience)
    return int(strategy.clock.train_exp_counter)


class DivergenceGuard(SupervisedPlugin):  # type: ignore[misc]
    """Stops a run whose loss, penalties included, is not finite. Put it after the plugins that add to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self._step = 0
        self._boundaries = Boundaries()

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Count steps from the task's start."""
        if self._boundaries.begins(strategy.experience):
            self._step = 0

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Check the loss."""
        self._step += 1
        loss = strategy.loss.detach()
        if not torch.isfinite(loss).all():
            raise DivergenceError(f"the loss is {float(loss):g}", _task(strategy), self._step)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Check the weights, which the last step may have spoilt, before any plugin draws conclusions from them."""
        if not all(torch.isfinite(parameter).all() for parameter in strategy.model.parameters()):
            raise DivergenceError("the weights are not finite", _task(strategy), self._step)

    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Check the outputs, which the last step of a task may have spoilt."""
        if not torch.isfinite(strategy.mb_output).all():
            task = max(strategy.clock.train_exp_counter - 1, 0)
            raise DivergenceError("the outputs are not finite", task, 0)


class NoMetrics(EvaluationPlugin):  # type: ignore[misc]
    """An evaluator without metrics that costs nothing; Avalanche's own copies the experience at every hook."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No loggers specified")
            super().__init__()

    def _update_metrics_and_loggers(self, strategy: Any, callback: str) -> None:
        return


class AccuracyRecorder(SupervisedPlugin):  # type: ignore[misc]
    """Counts right answers by experience while a strategy evaluates a stream.

    Attributes:
        accuracies: the last evaluation's, one an experience in the stream's order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracies: list[float] = []
        self._right = self._seen = 0

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Start a row."""
        self.accuracies = []

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Start an experience."""
        self._right = self._seen = 0

    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Count a batch."""
        self._right += int((strategy.mb_output.argmax(1) == strategy.mb_y).sum())
        self._seen += len(strategy.mb_y)

    def after_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Close an experience."""
        self.accuracies.append(self._right / self._seen)


class MeanLoss(SupervisedPlugin):  # type: ignore[misc]
    """Averages the loss, penalties included. Put it after the plugins that add to the loss."""

    def __init__(self, on_epoch: Callable[[], None]) -> None:
        """Listen.

        Args:
            on_epoch: called at the end of each pass over a task, or over a piece of it.
        """
        super().__init__()
        self._on_epoch = on_epoch
        self._sum, self._count = 0.0, 0

    def take(self) -> float | None:
        """Return the mean since it was last taken, None where there was no step, and begin anew."""
        mean = self._sum / self._count if self._count else None
        self._sum, self._count = 0.0, 0
        return mean

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add a step's."""
        self._sum += float(strategy.loss.detach())
        self._count += 1

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Announce the end of a pass."""
        self._on_epoch()


class FewSteps(SupervisedPlugin):  # type: ignore[misc]
    """Ends each task's training, or each piece's, after its first steps.

    Attributes:
        taken: steps of the last task, in all its pieces.
        seconds: of one of them, from the end of the first to the end of the last.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self.taken, self.seconds = 0, 0.0
        self._boundaries = Boundaries()
        self._of_piece, self._first = 0, 0.0

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Count anew."""
        self._of_piece = 0
        if self._boundaries.begins(strategy.experience):
            self.taken = 0

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Stop where enough were taken."""
        now = time.perf_counter()
        if not self.taken:
            self._first = now
        self.taken += 1
        self._of_piece += 1
        self.seconds = (now - self._first) / max(self.taken - 1, 1)
        if self._of_piece >= self._most:
            strategy.stop_training()


class StepCounter(SupervisedPlugin):  # type: ignore[misc]
    """Tells a listener of each training step."""

    def __init__(self, on_start: Callable[[int], None], on_step: Callable[[], None]) -> None:
        """Listen.

        Args:
            on_start: called with the number of steps a task will take.
            on_step: called after each.
        """
        super().__init__()
        self._on_start, self._on_step = on_start, on_step
        self._boundaries = Boundaries()

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Announce a task, with all its pieces."""
        experience = strategy.experience
        if self._boundaries.begins(experience):
            pieces = experience.logging().sub_stream_length if isinstance(experience, OnlineCLExperience) else 1
            self._on_start(len(strategy.dataloader) * strategy.train_epochs * pieces)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Announce a step."""
        self._on_step()

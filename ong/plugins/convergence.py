"""Training until the accuracy on held-out training data stops rising."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from torch import Tensor

from ong.errors import UserError
from ong.plugins.boundaries import ExperienceRows

__all__ = ["UntilConverged"]

_SEED = 6


class UntilConverged(SupervisedPlugin):  # type: ignore[misc]
    """Trains on five sixths of the data at hand until the accuracy on the other sixth stops rising.

    ``patience`` passes without a better one end the training, whose number of passes the strategy's ``train_epochs``
    then does not decide; the weights of the best pass are what is left. With ``JointTraining`` this is what the net
    could learn if it had all tasks at once and all the time it wants. The sixth is held out of each task by the same
    fixed permutation, so that tasks which are transforms of the same images hold out the same ones.

    Attributes:
        accuracies: on the held-out sixth after each pass of the last training, in [0, 1].
    """

    def __init__(self, *, patience: int = 5, max_epochs: int = 100) -> None:
        """Choose when to stop.

        Args:
            patience: passes without a better accuracy after which training ends.
            max_epochs: most passes.

        Raises:
            UserError: a number below 1.
        """
        super().__init__()
        if patience < 1 or max_epochs < 1:
            raise UserError(f"patience and max_epochs must be at least 1, got {patience} and {max_epochs}")
        self.patience, self.max_epochs = patience, max_epochs
        self.accuracies: list[float] = []
        self._held = SimpleNamespace(dataset=None)
        self._best: dict[str, Tensor] = {}
        self._epochs = 0

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Let the training be as long as it may become."""
        self._epochs, strategy.train_epochs = strategy.train_epochs, self.max_epochs

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Hold a sixth of each task out."""
        whole = strategy.adapted_dataset
        sizes = [len(experience.dataset) for experience in getattr(strategy, "_experiences", [strategy.experience])]
        kept, held, start = list[int](), list[int](), 0
        for size in sizes:
            order = torch.randperm(size, generator=torch.Generator().manual_seed(_SEED)).add(start).tolist()
            held += order[: size // 6]
            kept += order[size // 6 :]
            start += size
        if not held or start != len(whole):
            raise UserError(
                f"{type(self).__name__} found {len(whole)} examples for tasks of {sizes}: it holds a sixth of each "
                "task out, and works with Avalanche's Naive and JointTraining"
            )
        self._held.dataset, strategy.adapted_dataset = whole.subset(held), whole.subset(kept)
        self.accuracies = []

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Take the accuracy; keep the weights if it is the best so far, or stop if it has long not been."""
        accuracy = self._accuracy(strategy)
        if accuracy > max(self.accuracies, default=-1.0):
            self._best = copy.deepcopy(strategy.model.state_dict())
        self.accuracies.append(accuracy)
        since = len(self.accuracies) - 1 - self.accuracies.index(max(self.accuracies))
        if since >= self.patience and len(self.accuracies) < self.max_epochs:
            strategy.stop_training()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Return to the best weights."""
        strategy.model.load_state_dict(self._best)
        self._best, self._held.dataset = {}, None

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Give the strategy its number of passes back."""
        strategy.train_epochs = self._epochs

    @torch.no_grad()
    def _accuracy(self, strategy: Any) -> float:
        rows, right = ExperienceRows(self._held), 0
        strategy.model.eval()
        for index in torch.split(torch.arange(len(rows)), strategy.eval_mb_size):
            x, y, *_, task = (part.to(strategy.device) for part in rows.take(index))
            right += int((avalanche_forward(strategy.model, x, task).argmax(1) == y).sum())
        strategy.model.train()
        return right / len(rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept from task to task: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it."""

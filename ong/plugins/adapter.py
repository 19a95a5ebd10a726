"""A method as an Avalanche plugin: the strategy's experiences are its tasks."""

from __future__ import annotations

import functools
import inspect
import weakref
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from torch import Tensor

from ong.curvature import Batch, Forward, Likelihood, checked_logits
from ong.errors import UserError
from ong.methods import Method
from ong.plugins.boundaries import Boundaries, ExperienceRows, check_boundaries, place_of, stream_length, task_of

__all__ = ["MethodPlugin", "as_plugin"]


class MethodPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Lets a method rewrite the steps of any Avalanche supervised strategy that has an optimizer.

    Each experience is a task; the pieces of an online stream are one task together, which ends with its last piece
    (``access_task_boundaries=True``). An experience that is trained on again is no new task: its steps are rewritten,
    nothing more is kept. Where the plugin stands among the others does not matter: steps are rewritten where the
    optimizer takes them.

    Attributes:
        method: the method.
    """

    def __init__(self, method: Method, *, likelihood: Likelihood | None = None, logits: Forward | None = None) -> None:
        """Carry a method.

        Args:
            method: a method of :mod:`ong.methods`.
            likelihood: of the targets given the outputs; by default the criterion's.
            logits: from a batch (x, y, task labels) to outputs ``[N, C]``; by default the model's.
        """
        super().__init__()
        self.method = method
        self._likelihood, self._logits = likelihood, logits
        self._boundaries = Boundaries()
        self._seen: list[tuple[weakref.ref[Any], int]] = []  # stream and place of tasks finished in this process

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begin a task, or go on with one in an online stream."""
        experience = strategy.experience
        check_boundaries(self.method, experience)
        _check_strategy(self.method, strategy)
        begins = self._boundaries.begins(experience)
        hooks = self.method._hooks
        if not begins and hooks is not None and hooks.optimizer is strategy.optimizer and self.method.blocks:
            return
        if self.method._in_task:  # of a training that was broken off
            self.method.detach()
            self.method.leave_task()
        self.method.attach(
            strategy.model,
            strategy.optimizer,
            logits=self._logits or (lambda batch: _forward(strategy, batch)),
            criterion=strategy._criterion,
            likelihood=self._likelihood,
            tasks=stream_length(experience),
        )
        self.method.begin_task(ExperienceRows(task_of(experience)))

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """End the task, and keep what it leaves if it was not seen before."""
        if not self._boundaries.ends(strategy.experience):
            return
        task = task_of(strategy.experience)
        place = place_of(task)
        if any(seen() is place[0] and number == place[1] for seen, number in self._seen):
            self.method.leave_task()
        else:
            self.method.end_task(ExperienceRows(task))
            self._seen.append((weakref.ref(place[0]), place[1]))
        self.method.detach()

    def attach(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to be a method in a loop of one's own.

        Raises:
            UserError: always.
        """
        name = type(self.method).__name__
        raise UserError(f"ong.{name} is a plugin for Avalanche; in a loop of your own use ong.methods.{name}")

    @property
    def memory_bytes(self) -> int:
        """Bytes that the method keeps from task to task."""
        return self.method.memory_bytes

    def statistics(self) -> dict[str, float]:
        """Return numbers about the method's present state, by name."""
        return self.method.statistics()

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task and from step to step, as tensors and plain values."""
        return {"method": self.method.state_dict(), "first_piece": self._boundaries.first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the next experience goes on as if never interrupted."""
        self.method.load_state_dict(state["method"])
        self._boundaries.first = state["first_piece"]


def _forward(strategy: Any, batch: Batch) -> Tensor:
    """Run the model as Avalanche does: with the batch's task labels when it has heads for them."""
    return checked_logits(avalanche_forward(strategy.model, batch[0], batch[-1]), batch)


def _check_strategy(method: Method, strategy: Any) -> None:
    """Refuse strategies whose steps no method can rewrite.

    Raises:
        UserError: one without an optimizer, or whose model gives no logits in eval mode.
    """
    name, what = type(strategy).__name__, type(method).__name__
    if getattr(strategy, "optimizer", None) is None:
        raise UserError(f"{name} trains without an optimizer, so {what} has no steps to rewrite")
    from avalanche.models import TrainEvalModel
    from avalanche.training.supervised import JointTraining

    if isinstance(strategy, JointTraining):
        raise UserError(f"{name} trains on all tasks at once, so there is none that {what} could protect")
    if isinstance(strategy.model, TrainEvalModel):
        raise UserError(f"the model of {name} has no logits in eval mode, so {what} cannot take their gradients")


_PLUGINS: dict[type[Method], type[MethodPlugin]] = {}


def as_plugin(method: type[Method]) -> type[MethodPlugin]:
    """Return a method's plugin class, with its name and options, and :class:`MethodPlugin`'s two."""
    if method not in _PLUGINS:
        _PLUGINS[method] = _made(method)
    return _PLUGINS[method]


def _made(method: type[Method]) -> type[MethodPlugin]:
    own = inspect.signature(method).parameters
    extra = [p for n, p in inspect.signature(MethodPlugin).parameters.items() if n != "method"]

    @functools.wraps(method.__init__)
    def init(
        self: MethodPlugin, *, likelihood: Likelihood | None = None, logits: Forward | None = None, **options: Any
    ) -> None:
        MethodPlugin.__init__(self, method(**options), likelihood=likelihood, logits=logits)

    return type(
        method.__name__,
        (MethodPlugin,),
        {
            "__init__": init,
            "__doc__": f"{method.__doc__}\n    Here as an Avalanche plugin.\n",
            "__module__": "ong.plugins" if method.__module__.startswith("ong.") else method.__module__,
            "__signature__": inspect.Signature([*own.values(), *extra]),
        },
    )

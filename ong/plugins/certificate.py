"""Certificates of a strategy's tasks, whatever its method: what is promised of old outputs, and what they did."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from torch import Tensor, nn

from ong import methods
from ong.curvature import PROBED, Batch, checked_logits, evaluating
from ong.errors import UserError
from ong.methods import Examples
from ong.methods.certificate import CERTIFIED
from ong.plugins.adapter import MethodPlugin
from ong.plugins.boundaries import Boundaries, ExperienceRows, place_of, task_of

__all__ = ["Certificate"]


class Certificate(SupervisedPlugin):  # type: ignore[misc]
    """Takes the numbers of :class:`ong.methods.Certificate` at each end of a task.

    Put it before a method's plugin in the list, so that it sees the method before its own end of the task. It works
    with every strategy, changes nothing, and draws from its own generators. Models without logits in eval mode are not
    measured.

    Attributes:
        measures: by name, ``certificate_`` and that of the number, one a finished task; None where it does not apply.
    """

    def __init__(self, *, examples: int = 100, seed: int = 0, test_stream: Any = None) -> None:
        """Choose how much to look at.

        Args:
            examples: of each kind that the end of a task looks at, and that are kept of each task.
            seed: which examples; that of a method, to look at those it stores.
            test_stream: test experiences, one a training experience, in their order.

        Raises:
            UserError: a number below 1.
        """
        super().__init__()
        self.measures: dict[str, list[float | None]] = {f"certificate_{name}": [] for name in CERTIFIED}
        self._certificate = methods.Certificate(examples=examples, seed=seed)
        self._test_stream = test_stream
        self._boundaries = Boundaries()

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Note the weights a task begins with."""
        if self._boundaries.begins(strategy.experience):
            self._certificate.begin_task(strategy.model)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take the numbers of the task that ends here."""
        if not self._boundaries.ends(strategy.experience):
            return
        task = task_of(strategy.experience)
        data = ExperienceRows(task)
        found: dict[str, float | None] = {}
        if _has_logits(strategy, data):
            number = place_of(task)[1]
            ours = [plugin.method for plugin in strategy.plugins if isinstance(plugin, MethodPlugin)]
            found = self._certificate.end_task(
                strategy.model,
                data,
                method=ours[0] if ours else None,
                test=None if self._test_stream is None else ExperienceRows(self._test_stream[number]),
                run=_run,
            )
        for name, values in self.measures.items():
            values.append(found.get(name.removeprefix("certificate_")))

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept from task to task."""
        return {
            "measures": {name: list(values) for name, values in self.measures.items()},
            "certificate": self._certificate.state_dict(),
            "first_piece": self._boundaries.first,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.measures = {name: list(values) for name, values in state["measures"].items()}
        self._certificate.load_state_dict(state["certificate"])
        self._boundaries.first = state["first_piece"]


def _run(model: nn.Module, batch: Batch) -> Tensor:
    return checked_logits(avalanche_forward(model, batch[0], batch[-1]), batch)


def _has_logits(strategy: Any, data: ExperienceRows) -> bool:
    try:
        probe = Examples(data, torch.device(strategy.device)).probe(PROBED)
        with evaluating(strategy.model), torch.no_grad():
            _run(strategy.model, probe)
    except (UserError, AssertionError):  # iCaRL's model fails in eval mode at first
        return False
    return True

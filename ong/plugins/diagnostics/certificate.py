"""Certificates of a strategy's tasks, whatever its method: what is promised of old outputs, and what they did."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models.utils import avalanche_forward
from torch import Tensor, nn

from ong import methods
from ong.curvature import PROBED, Batch, checked_logits, evaluating
from ong.errors import UserError
from ong.methods import Examples
from ong.methods.certificate import CERTIFIED
from ong.plugins.adapter import MethodPlugin
from ong.plugins.boundaries import ExperienceRows, place_of, task_of
from ong.plugins.diagnostics.base import Diagnostic

__all__ = ["Certificate"]


class Certificate(Diagnostic):
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
        self.measures = {f"certificate_{name}": [] for name in CERTIFIED}
        self._certificate = methods.Certificate(examples=examples, seed=seed)
        self._test_stream = test_stream

    def begin_task(self, strategy: Any) -> None:
        """Note the weights a task begins with."""
        self._certificate.begin_task(strategy.model)

    def end_task(self, strategy: Any) -> dict[str, float | None]:
        """Take the numbers of the task that ends here."""
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
        return {f"certificate_{name}": value for name, value in found.items()}

    def kept(self) -> dict[str, Any]:
        """Return what the certificate keeps from task to task."""
        return self._certificate.state_dict()

    def keep(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`kept` returned."""
        self._certificate.load_state_dict(state)


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

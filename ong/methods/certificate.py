"""What theory promises of old outputs while a task is trained, beside what is measured of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature import Batch, Run, Weights, batch_size, logits_of, map_batch, select
from ong.errors import UserError
from ong.methods.base import Method
from ong.methods.data import Examples, joined
from ong.methods.fishers import check_positive
from ong.methods.task_end import Past, TaskEnd

__all__ = ["CERTIFIED", "Certificate"]

CERTIFIED = (
    "promised",
    "exact",
    "first_order",
    "nonlinear",
    "measured",
    "measured_test",
    "divergence",
    "divergence_measured",
    "distance",
    "distance_measured",
    "stored",
    "stored_measured",
)
"""The numbers of a certificate."""


class Certificate:
    """What docs/theory.md promises of the outputs of finished tasks, by task, beside what they did.

    Δ is the way the weights went in a task. Means are over examples, then over the t finished tasks; a squared change
    of logits is a sum over outputs.

    * ``promised``: (λ‖Δ‖²_M − λ‖Δ‖²)/t = ΔᵀFΔ/t in the method's metric of the past, if F is of type ``logit``.
      ``exact``: mean ‖J(x)Δ‖² with J at the weights θ_s that x's task ended with, which F approximates.
      ``first_order``: the same with J at the weights θ_{t−1} that the present task began with.
    * ``measured``: mean ‖h(θ_t) − h(θ_{t−1})‖² of training examples, others than a method of the same seed stores
      where there are so many; ``measured_test`` of test examples. ``nonlinear``: what ``exact`` leaves out of it,
      mean ‖h(θ_t) − h(θ_{t−1}) − J(θ_s)Δ‖².
    * ``divergence``: ΔᵀFΔ/t with another F of a categorical likelihood, the second order of twice the KL divergence
      from the outputs' distributions at θ_{t−1} to those at θ_t; ``divergence_measured``: that of training examples.
    * ``distance``: mean dist²(∇h_y, span G)·‖Δ‖²_M of the true logit of test examples, for methods with a metric or
      with directions (without a metric M = I); ``distance_measured``: mean squared change of these logits. One in four
      of the test examples is asked, as each takes a projection.
    * ``stored``: mean (½ max|q″|)² of true logits on the way from θ_s to θ_t, the most by which they may have moved
      since their task if Gᵀ(θ_t − θ_s) = 0; ``stored_measured``: by how much they have. The examples are the first of
      those that OGD, ONG v1 and ONGPrior of the same seed store.

    What does not apply is None, as all is in the first task, and what takes J where a model has operations
    without a forward-mode derivative. Nothing is changed. Of each finished task its weights are kept, and three times
    ``examples`` examples.

    >>> import torch, ong
    >>> model = torch.nn.Linear(4, 3).double()
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> method, certificate = ong.methods.NCL(), ong.methods.Certificate()
    >>> with method.attach(model, sgd):
    ...     for _ in range(2):
    ...         task = [torch.randn(8, 4).double(), torch.arange(8) % 3]
    ...         method.begin_task(task)
    ...         certificate.begin_task(model)
    ...         torch.nn.functional.cross_entropy(model(task[0]), task[1]).backward()
    ...         sgd.step()
    ...         found = certificate.end_task(model, task, method=method)  # before the method's own end
    ...         method.end_task()
    >>> abs(found["exact"] - found["measured"]) < 1e-12  # a linear model has no second order
    True
    """

    def __init__(self, *, examples: int = 100, seed: int = 0) -> None:
        """Choose how much to look at.

        Args:
            examples: how many of each kind are kept of a task, and looked at when a task ends, evenly over the finished
                tasks.
            seed: which examples; that of a method, to look at those it stores.

        Raises:
            UserError: a number below 1.
        """
        check_positive(examples=examples)
        self.examples = examples
        self._past: list[Past] = []
        self._start: Weights | None = None
        self._choice = torch.Generator().manual_seed(int(seed))
        self._test_choice = torch.Generator().manual_seed(int(seed))

    def begin_task(self, model: nn.Module) -> None:
        """Note the weights a task begins with."""
        self._start = _weights(model)

    def end_task(
        self, model: nn.Module, data: Any, *, method: Method | None = None, test: Any = None, run: Run = logits_of
    ) -> dict[str, float | None]:
        """Return the numbers of the task that ends, and keep what is needed of it.

        Args:
            model: the network.
            data: what was trained on, see :meth:`Method.begin_task`; targets are class numbers.
            method: the attached method, before its own :meth:`Method.end_task`; without it nothing is promised.
            test: other examples of the task, likewise.
            run: from model and batch to the logits ``[N, C]``.

        Raises:
            UserError: no task has begun, targets that are no class numbers, data of another kind.
        """
        if self._start is None:
            raise UserError("no task has begun; call Certificate.begin_task(model) where one does")
        model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
        now = _weights(model)
        start = _padded(self._start, now)
        for past in self._past:  # what a model has gained since counts as having been there
            past.weights = _padded(past.weights, start)
        device = next(model.parameters()).device
        found: dict[str, float | None] = dict.fromkeys(CERTIFIED)
        if self._past:
            ended = TaskEnd(model, run, self._looked_at(device), _on(start, device), _on(now, device))
            found |= ended.measured()
            if method is not None:
                found |= ended.promised(method)
        self._keep(now, Examples(data, device), None if test is None else Examples(test, device))
        self._start = None
        return found

    def _looked_at(self, device: torch.device) -> list[Past]:
        count = math.ceil(self.examples / len(self._past))

        def some(batch: Batch) -> Batch:
            return map_batch(lambda t: t[:count].to(device), batch)

        return [
            Past(_on(past.weights, device), some(past.stored), some(past.others), some(past.test))
            for past in self._past
        ]

    def _keep(self, now: Weights, examples: Examples, test: Examples | None) -> None:
        count = self.examples
        drawn = joined(examples.draw(count, self._choice, far=count, shared=False))
        stored, others = select(drawn, slice(0, count)), select(drawn, slice(count, None))
        others = others if batch_size(others) else stored  # a small task
        unseen = None if test is None else joined(test.draw(count, self._test_choice, shared=False))
        self._past.append(Past(now, *(map_batch(lambda t: t.cpu(), batch) for batch in (stored, others, unseen))))

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept from task to task, and the weights that the present one began with."""
        return {
            "past": [dict(vars(past)) for past in self._past],
            "start": self._start,
            "choice": self._choice.get_state(),
            "test_choice": self._test_choice.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._past = [Past(**past) for past in state["past"]]
        self._start = state["start"]
        self._choice.set_state(state["choice"].cpu())
        self._test_choice.set_state(state["test_choice"].cpu())


def _weights(model: nn.Module) -> Weights:
    """Return a copy of parameters and floating-point buffers, on the CPU."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach().cpu().clone() for name, t in named if t.is_floating_point()}


def _on(weights: Weights, device: torch.device) -> Weights:
    return {name: tensor.to(device) for name, tensor in weights.items()}


def _padded(old: Weights, new: Weights) -> Weights:
    """Return weights in the shapes of a model that has grown, which are the new ones where there were none."""
    return {name: _grown(old[name], tensor) if name in old else tensor for name, tensor in new.items()}


def _grown(old: Tensor, new: Tensor) -> Tensor:
    if old.shape == new.shape:
        return old
    grown = new.clone()
    part = tuple(slice(0, min(sizes)) for sizes in zip(old.shape, new.shape, strict=True))
    grown[part] = old[part]
    return grown

"""Stored outputs and the metric of the past, from one store of examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ong.curvature import (
    FisherType,
    Metric,
    Vector,
    batch_size,
    dense_gradient,
    evaluating,
    negative_log_likelihood,
    targets_of,
)
from ong.errors import NotFiniteError, UserError
from ong.methods.base import Method
from ong.methods.data import Examples
from ong.methods.fishers import FisherOptions, check_damping, check_positive
from ong.methods.packing import pack_nested, packed_bytes
from ong.methods.room import Needs, Shapes
from ong.methods.statistics import BatchNorm
from ong.methods.store import ExampleStore

__all__ = ["ONGReplay"]


class ONGReplay(Method):
    """v = M⁻¹∇J, J(θ) = L(θ) + Σ_s mean_{stored of s}[ α‖h(x) − z_x‖² − β log p(y_x|h(x)) ], M = I + F/λ.

    J is the loss of the task in training and that of each finished task s on its stored examples: on their labels, and
    on the outputs z they had when their task ended. With α = 0 and β = 1 it is the sum of all tasks' losses so far, as
    the store tells them. v is its steepest descent in the metric of what has been learned: F is the sum over finished
    tasks of the Fishers of their stored examples, taken anew at the weights each task begins with, so it costs no
    memory between tasks. The stored loss holds what is stored, the metric what is not. Each step estimates the second
    part of ∇J from ``replay_batch`` stored examples.

    As λ → ∞ it becomes DER++ with the outputs of finished tasks, and weights that grow with the number of tasks.

    Guarantees vᵀ∇J ≥ 0, that J falls at small rates, and while it does Σ_s mean‖h(x) − z_x‖² ≤ J(θ₀)/α through the
    whole task; docs/theory.md has this and what M promises of outputs that are not stored.

    Source: this project; the stored loss is that of Buzzega et al., "Dark experience for general continual learning",
    arXiv 2004.07211 (whose code has the mean over C outputs, so that its alpha is C times this one).

    Attributes:
        store: the examples and their outputs.
        metric: M; None where F = 0.
    """

    def __init__(
        self,
        *,
        examples: int = 2500,
        replay_batch: int = 64,
        alpha: float = 0.005,
        beta: float = 1.0,
        damping: float = 0.3,
        fisher: FisherType = "logit",
        samples: int = 1,
        rank: int | None = 100,
        batch_norm: BatchNorm = "update",
        seed: int = 0,
    ) -> None:
        """Choose store and metric.

        Args:
            examples: n, stored examples of all finished tasks together, the same share of each.
            replay_batch: stored examples in a step.
            alpha: α ≥ 0, of the squared change of stored outputs.
            beta: β ≥ 0, of the stored labels' loss.
            damping: λ > 0, in units of the Fisher's eigenvalues.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a λ about 100 times that of
                the others.
            samples: random draws an example for the random Fisher types.
            rank: leading columns of each layer's inputs that keep eigenvalues of their own; None keeps all.
            batch_norm: ``"freeze"`` holds running statistics still after the first task, ``"update"`` does not.
            seed: which examples are stored and drawn, and the random cotangents.

        Raises:
            UserError: an unknown choice or a number out of range.
        """
        super().__init__(batch_norm=batch_norm, seed=seed)
        check_positive(examples=examples, replay_batch=replay_batch)
        if not (alpha >= 0 and beta >= 0):
            raise UserError(f"alpha and beta must be at least 0, got {alpha} and {beta}")
        self.alpha, self.beta, self.replay_batch = alpha, beta, replay_batch
        self.damping = check_damping(damping)
        self.store = ExampleStore(examples)
        self.metric: Metric | None = None
        self._options = FisherOptions(fisher, examples, samples, rank)
        self._ekfac = self._options.empty()  # of the task in training
        self.adds_to_gradients = alpha > 0 or beta > 0
        self._drawn: Tensor | None = None

    def _begin(self, examples: Examples) -> None:
        self.likelihood(examples, self._options.fisher)  # that it can be told shows before training
        if self.beta:
            self.likelihood(examples)
            if targets_of(self.network.probe(examples)) is None:
                raise UserError("beta > 0 takes the labels of stored examples, and the batches have none; use beta=0")
        if self.store.share(self.tasks + 1) < 1:
            raise UserError(f"examples={self.store.size} leaves not one for each of {self.tasks + 1} tasks; raise it")
        self.metric = None
        if not len(self.store):
            return
        if not self._resumes:
            everything = [batch for batch, _ in self.store.take(torch.arange(len(self.store)))]
            mean = self._options.of_batches(self, examples, everything)
            self._ekfac = mean.scaled(self.tasks)  # every task has as many: the sum over tasks of their means
        self.metric = Metric(self._ekfac, self.blocks, self.damping)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        batch, rank = self.network.probe(examples), self._options.rank
        each = packed_bytes(pack_nested(batch)) // batch_size(batch) + 2 * shapes.outputs  # logits in float16
        stored = each * shapes.limited("examples", self.store.size, self.store.size)
        fisher = shapes.ekfac(rank) + shapes.metric(rank) + self._options.taking(shapes, option="examples")
        return Needs(stored, fisher + shapes.steps, stored)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        return self._options.sizes(shapes.blocks, option="examples")

    def _before_step(self) -> None:
        count = len(self.store)
        if count and self.adds_to_gradients:
            self._drawn = torch.randint(count, (self.replay_batch,), generator=self._generator)

    @property
    def is_idle(self) -> bool:
        """Whether no task is finished."""
        return not len(self.store)

    def force(self, gradient: Vector) -> Vector:
        """Return g and the gradient of the stored loss on the step's stored examples."""
        if self._drawn is None:
            return gradient
        blocks = {name: self.blocks[name] for name in gradient}
        parameters = [p for block in blocks.values() for p in block.parameters]
        with torch.enable_grad():
            found = torch.autograd.grad(self._stored_loss(self._drawn), parameters, allow_unused=True)
        pulled = iter(dense_gradient(part, p) for part, p in zip(found, parameters, strict=True))
        return {
            name: part + blocks[name].matrix([next(pulled) for _ in blocks[name].parameters])
            for name, part in gradient.items()
        }

    def _stored_loss(self, index: Tensor) -> Tensor:
        """Return the sum over finished tasks of means of α‖h − z‖² − β log p(y|h), as stored examples estimate it."""
        losses = []
        for batch, stored in self.store.take(index):
            outputs = self.forward(batch)
            if self.alpha:  # a head that has grown since has more outputs
                losses.append(self.alpha * (outputs[:, : stored.shape[1]] - stored).square().sum())
            if self.beta:
                targets = targets_of(batch)
                assert targets is not None
                likelihood = self.network.known_likelihood
                assert likelihood is not None
                losses.append(self.beta * negative_log_likelihood(outputs, targets, likelihood))
        return torch.stack(losses).sum() * (self.tasks / len(index))

    def project(self, vector: Vector) -> Vector:
        """Return M⁻¹v."""
        return self.metric.precondition(vector) if self.metric is not None else vector

    def _end(self, examples: Examples) -> None:
        drawn = examples.draw(self.store.share(self.tasks + 1), self._choice)
        with evaluating(self.model), torch.no_grad():
            found = [(batch, self.forward(batch)) for batch in drawn]
        if not all(outputs.isfinite().all() for _, outputs in found):
            raise NotFiniteError(
                f"outputs of examples to be stored are not finite, from layer '{next(iter(self.blocks))}' on: the "
                "weights or the inputs have diverged"
            )
        self.store.add(found, self.tasks)
        self._ekfac = self._options.empty()

    @property
    def past_metric(self) -> tuple[Metric, FisherType] | None:
        """M and the type of its Fisher."""
        return None if self.metric is None else (self.metric, self._options.fisher)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the store."""
        return self.store.bytes

    def statistics(self) -> dict[str, float]:
        """Return numbers about the method's present state, the number of stored examples among them."""
        return super().statistics() | {"examples": len(self.store)}

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"store": self.store.state_dict(), "ekfac": self._ekfac.state_dict()}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.store.load_state_dict(state["store"])
        self._ekfac, self.metric = self._options.empty(), None
        self._ekfac.load_state_dict(state["ekfac"])

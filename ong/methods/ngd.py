"""The natural gradient in the current task's metric."""

from __future__ import annotations

from typing import Any

from ong.curvature import EKFAC, FisherType, Metric, Vector
from ong.errors import UserError
from ong.methods.base import Method
from ong.methods.data import Examples
from ong.methods.fishers import FisherOptions, check_damping, check_positive
from ong.methods.room import Needs, Shapes

__all__ = ["NGD", "CurrentMetric"]


class CurrentMetric:
    """λ(F_c+λ)⁻¹ with F_c the EKFAC of the current task at weights a few steps old.

    Attributes:
        options: how F_c is taken.
        damping: λ.
        refresh_every: steps from one F_c to the next.
        ekfac: F_c.
        metric: what preconditions; None before a task.
    """

    def __init__(self, options: FisherOptions, damping: float, refresh_every: int) -> None:
        check_positive(refresh_every=refresh_every)
        self.options, self.damping, self.refresh_every = options, check_damping(damping), refresh_every
        self.ekfac = options.empty()
        self.metric: Metric | None = None
        self._examples: Examples | None = None

    def begin(self, method: Method, examples: Examples) -> None:
        """Begin a task, or go on with one whose F_c was loaded."""
        method.likelihood(examples, self.options.fisher)  # that it can be told shows before training
        self._examples, self.metric = examples, None
        if not method._resumes:
            self.ekfac = self.options.empty()  # a former task's, which a state must not take for this one's
        elif self.ekfac.blocks:
            self.metric = Metric(self.ekfac, method.blocks, self.damping)

    def before_step(self, method: Method) -> None:
        """Take F_c anew where it is due."""
        if self.metric is None or (method.step and method.step % self.refresh_every == 0):
            assert self._examples is not None
            self.ekfac = self.options.add_to(self.options.empty(), method, self._examples)
            self.metric = Metric(self.ekfac, method.blocks, self.damping)

    def needs(self, shapes: Shapes) -> Needs:
        """Return what it takes: F_c, its inverse, and another F_c while it is measured."""
        rank = self.options.rank
        return Needs(0, shapes.ekfac(rank) + shapes.metric(rank) + self.options.taking(shapes))

    def precondition(self, vector: Vector) -> Vector:
        """Return λ(F_c+λ)⁻¹v."""
        if self.metric is None:
            raise UserError("the current task's Fisher is not there yet; call before_step() ahead of update()")
        return self.metric.precondition(vector)

    def state(self, method: Method) -> dict[str, Any]:
        """Return F_c in the middle of a task."""
        return {"ekfac": self.ekfac.state_dict() if method._in_task or method._resumes else {}}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self.ekfac, self.metric = EKFAC(self.options.rank), None
        self.ekfac.load_state_dict(state["ekfac"])


class NGD(Method):
    """v = λ(F_c+λ)⁻¹ g with F_c the EKFAC of the current task: the natural gradient, which keeps nothing of the past.

    Guarantees gᵀv ≥ 0. Directions that F_c says nothing about keep SGD's step, so a learning rate keeps its meaning.
    F_c is taken anew every ``refresh_every`` steps, from examples drawn anew.

    Sources: Amari, "Natural gradient works efficiently in learning" (1998); EKFAC: George et al., arXiv 1806.03884.

    Attributes:
        current: the metric of the current task.
    """

    def __init__(
        self,
        *,
        damping: float = 0.1,
        fisher: FisherType = "logit",
        examples_per_task: int = 1000,
        samples: int = 1,
        rank: int | None = 100,
        refresh_every: int = 50,
        seed: int = 0,
    ) -> None:
        """Choose the metric.

        Args:
            damping: λ > 0, in units of the Fisher's eigenvalues.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a λ about 100 times that of
                the others.
            examples_per_task: training examples that F_c is taken from, each time.
            samples: random draws an example for the random Fisher types.
            rank: leading columns of each layer's inputs that keep eigenvalues of their own; None keeps all.
            refresh_every: steps between refreshes of F_c.
            seed: the examples drawn and the random cotangents.

        Raises:
            UserError: an unknown choice or a number out of range.
        """
        super().__init__(seed=seed)
        self.current = CurrentMetric(FisherOptions(fisher, examples_per_task, samples, rank), damping, refresh_every)

    def _begin(self, examples: Examples) -> None:
        self.current.begin(self, examples)

    def _before_step(self) -> None:
        self.current.before_step(self)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        return self.current.needs(shapes).plus(training=shapes.steps)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        return self.current.options.sizes(shapes.blocks)

    def project(self, vector: Vector) -> Vector:
        """Return λ(F_c+λ)⁻¹v."""
        return self.current.precondition(vector)

    def _state(self) -> dict[str, Any]:
        return super()._state() | self.current.state(self)

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.current.load(state)

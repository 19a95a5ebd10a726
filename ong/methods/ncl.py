"""Natural Continual Learning, and the metric of the finished tasks that it steps in."""

from __future__ import annotations

from typing import Any

from ong.curvature import EKFAC, FisherType, Metric, Vector
from ong.curvature.penalties import padded
from ong.errors import UserError
from ong.methods.base import Method
from ong.methods.data import Examples
from ong.methods.fishers import FisherOptions, check_damping
from ong.methods.room import Needs, Shapes

__all__ = ["NCL", "PastMetric"]


class PastMetric:
    """M = I + F/λ with F the sum of the finished tasks' EKFACs, and a pull to the weights μ they ended with.

    Attributes:
        options: how each task's Fisher is taken.
        damping: λ.
        pull: γ.
        ekfac: F.
        metric: M; None where F = 0.
        weights: μ, a matrix a block; kept where there is a pull.
    """

    def __init__(self, options: FisherOptions, damping: float, pull: float) -> None:
        if not pull >= 0:
            raise UserError(f"pull must be at least 0, got {pull}")
        self.options, self.damping, self.pull = options, check_damping(damping), pull
        self.ekfac = options.empty()
        self.metric: Metric | None = None
        self.weights: Vector = {}
        self._centre: Vector = {}

    def begin(self, method: Method) -> None:
        """Begin a task."""
        self.metric = Metric(self.ekfac, method.blocks, self.damping) if self.ekfac.blocks else None
        self._centre = {
            name: padded(self.weights.get(name), block.values()) for name, block in method.blocks.items() if self.pull
        }

    def pulled(self, method: Method, gradient: Vector, precision: float = 0.0) -> Vector:
        """Return g + γ(F + λ₀)(θ − μ), λ₀ the ``precision``; a layer that did not exist a task ago is not drawn."""
        if self.metric is None or not self.pull:
            return gradient
        moved = {name: method.blocks[name].values() - self._centre[name] for name in gradient}
        drawn = self.metric.curvature(moved)
        return {n: part + self.pull * (drawn[n] + precision * moved[n]) for n, part in gradient.items()}

    def needs(self, shapes: Shapes) -> Needs:
        """Return what it takes: F and μ; M⁻¹ and, for the pull, F as an operator; a Fisher while it is measured."""
        rank, pulls = self.options.rank, bool(self.pull)
        kept = shapes.ekfac(rank) + pulls * shapes.parameters
        return Needs(kept, (1 + pulls) * shapes.metric(rank), self.options.taking(shapes))

    def end(self, method: Method, examples: Examples) -> None:
        """Add a finished task's Fisher."""
        self.options.add_to(self.ekfac, method, examples)
        if self.pull:
            self.weights = {name: block.values().clone() for name, block in method.blocks.items()}

    @property
    def bytes(self) -> int:
        """Memory of F and μ."""
        return self.ekfac.bytes + sum(t.numel() * t.element_size() for t in self.weights.values())

    def state(self) -> dict[str, Any]:
        """Return F and μ."""
        return {"ekfac": self.ekfac.state_dict(), "weights": dict(self.weights)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned."""
        self.ekfac, self.metric = EKFAC(self.options.rank), None
        self.ekfac.load_state_dict(state["ekfac"])
        self.weights = dict(state["weights"])


class NCL(Method):
    """v = M⁻¹( g + γ(F + λ₀)(θ − μ) ), M = I + F/λ: steps in the finished tasks' metric, drawn to their weights.

    The paper maximises log p(D_k|θ) − ½(θ−μ)ᵀΛ(θ−μ), the Laplace posterior, with Λ the precision left by the finished
    tasks and μ the weights they ended with, inside a trust region measured by Λ. Its update is, in a loss's signs,

        Δθ ∝ −[ Λ⁻¹ ∇ℓ(θ) + (θ − μ) ].

    Λ is the prior's λ₀I plus the Fishers of the finished tasks, and with gradients per example instead of summed over
    the N examples of a task λ₀ is the prior's precision over N. Put λ = λ₀, γ = 1: then v = λ[Λ⁻¹g + (θ − μ)] exactly,
    the published update with a factor λ in the learning rate, and that is the default. The authors' code adds a small
    α to the preconditioner only: λ = λ₀ + α. With a large λ (``fisher="logit"`` wants one) the pull of λ₀ = λ stops
    learning even in directions no task has used; ``prior_precision=0`` pulls only along what F knows.

    Guarantees gᵀv ≥ 0 for γ = 0, and for γ > 0 the same of the penalised loss's gradient; old outputs do move at first
    order, the less the more they matter. The first task is trained without a prior, as every method trains it here;
    the paper draws it to 0. F is EKFAC merged data-free where the paper merges K-FAC's.

    Source: Kao, Jensen, van de Ven, Bernacchia, Hennequin, "Natural continual learning: success is a journey, not
    (just) a destination", arXiv 2106.08085, §2; the authors' code, tachukao/ncl, ``learners/laplace.py``.

    Attributes:
        past: M and μ.
    """

    def __init__(
        self,
        *,
        damping: float = 0.1,
        prior_precision: float | None = None,
        pull: float = 1.0,
        fisher: FisherType = "logit",
        examples_per_task: int = 1000,
        samples: int = 1,
        rank: int | None = 100,
        seed: int = 0,
    ) -> None:
        """Choose the strengths.

        Args:
            damping: λ > 0, in units of the Fisher's eigenvalues.
            prior_precision: λ₀, between 0 and ``damping``; None is ``damping``, as published.
            pull: γ ≥ 0; 1 is the paper's.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a λ about 100 times that of
                the others.
            examples_per_task: training examples of a finished task that its Fisher is taken from.
            samples: random draws an example for the random Fisher types.
            rank: leading columns of each layer's inputs that keep eigenvalues of their own; None keeps all.
            seed: the examples drawn and the random cotangents.

        Raises:
            UserError: a number out of range or an unknown choice.
        """
        super().__init__(seed=seed)
        self.past = PastMetric(FisherOptions(fisher, examples_per_task, samples, rank), damping, pull)
        self.adds_to_gradients = pull > 0
        self.prior_precision = damping if prior_precision is None else prior_precision
        if not 0 <= self.prior_precision <= damping:
            raise UserError(
                f"prior_precision must be between 0 and damping, got {prior_precision} with damping={damping}"
            )

    def _begin(self, examples: Examples) -> None:
        self.likelihood(examples, self.past.options.fisher)  # that it can be told shows before training
        self.past.begin(self)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        return self.past.needs(shapes).plus(training=shapes.steps)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        return self.past.options.sizes(shapes.blocks)

    @property
    def is_idle(self) -> bool:
        """Whether no task is finished."""
        return self.past.metric is None

    def force(self, gradient: Vector) -> Vector:
        """Return g + γ(F + λ₀)(θ − μ)."""
        return self.past.pulled(self, gradient, self.prior_precision)

    def project(self, vector: Vector) -> Vector:
        """Return M⁻¹v."""
        return self.past.metric.precondition(vector) if self.past.metric is not None else vector

    def _end(self, examples: Examples) -> None:
        self.past.end(self, examples)

    @property
    def past_metric(self) -> tuple[Metric, FisherType] | None:
        """M and the type of its Fisher."""
        return None if self.past.metric is None else (self.past.metric, self.past.options.fisher)

    @property
    def memory_bytes(self) -> int:
        """Bytes of F and μ."""
        return self.past.bytes

    def _state(self) -> dict[str, Any]:
        return super()._state() | self.past.state()

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.past.load(state)

"""Elastic Weight Consolidation, with Fishers from per-example gradients."""

from __future__ import annotations

from typing import Any, Literal

from ong.curvature import DiagonalPenalty, EKFACPenalty, FisherType, Vector
from ong.errors import UnknownNameError, UserError
from ong.methods.base import Method
from ong.methods.data import Examples
from ong.methods.fishers import FisherOptions
from ong.methods.room import Needs, Shapes

__all__ = ["EWC"]


class EWC(Method):
    """g + strength · Σ_t F_t(θ − θ_t), the gradient of loss + strength/2 · Σ_t (θ − θ_t)ᵀF_t(θ − θ_t).

    θ_t and F_t are the weights and the Fisher a finished task ended with.

    ============  =========================================  ==========================================
    penalty       mode="separate"                            mode="online"
    ============  =========================================  ==========================================
    ``diagonal``  Σ_t Σ_i F_t,ii(θ_i−θ_t,i)², one parabola   F ← decay·F + diag F_t, around the newest θ_t
    ``ekfac``     one EKFAC and one θ_t a task: cost grows   EKFACs merged data-free, around the newest θ_t
    ============  =========================================  ==========================================

    Fishers average squares of per-example gradients, labels drawn from the model or averaged over (``fisher``); a
    batch's mean gradient squared is another quantity. Nothing is guaranteed of a single step: it follows the gradient
    of the penalised loss, which old outputs and the new task's loss both feel. Rows that a head gains carry no penalty.

    The penalty is added where the step is taken, so it counts once a step however many batches are accumulated, and
    clipping the gradient before the step leaves it alone.

    Sources: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", arXiv 1612.00796, Eq. 3
    (``separate``); Schwarz et al., "Progress & compress", arXiv 1805.06370, §3 (``online``); Ritter, Botev, Barber,
    "Online structured Laplace approximations", arXiv 1805.07810 (Kronecker-factored).

    Attributes:
        penalties: what is kept: one parabola, or one EKFAC penalty a task (one in all when online).
    """

    adds_to_gradients = True

    def __init__(
        self,
        *,
        strength: float = 1.0,
        penalty: Literal["diagonal", "ekfac"] = "diagonal",
        mode: Literal["separate", "online"] = "separate",
        decay: float = 1.0,
        fisher: FisherType = "logit",
        examples_per_task: int = 1000,
        samples: int = 1,
        rank: int | None = 100,
        seed: int = 0,
    ) -> None:
        """Choose the penalty.

        Args:
            strength: at least 0; for losses and Fishers that are means over examples.
            penalty: ``diagonal`` or ``ekfac``.
            mode: keep every task's centre, or the newest one only.
            decay: factor in [0, 1] on the older tasks' Fisher at each new one; online only.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a strength about 100 times
                smaller than the others.
            examples_per_task: training examples of a finished task that its Fisher is taken from.
            samples: random draws an example for the random Fisher types.
            rank: leading columns of each layer's inputs that keep eigenvalues of their own (``ekfac``); None keeps all.
            seed: the examples drawn and the random cotangents.

        Raises:
            UserError: an unknown choice or a number out of range.
        """
        super().__init__(seed=seed)
        for what, value, choices in (
            ("penalty", penalty, ("diagonal", "ekfac")),
            ("mode", mode, ("separate", "online")),
        ):
            if value not in choices:
                raise UnknownNameError(what, value, choices)
        if not strength >= 0:
            raise UserError(f"strength must not be negative, got {strength}")
        if not 0 <= decay <= 1 or (decay != 1 and mode != "online"):
            raise UserError(f"decay must be in [0, 1] and needs mode='online', got {decay} with mode='{mode}'")
        self.strength, self.penalty, self.mode, self.decay = strength, penalty, mode, decay
        self.options = FisherOptions(fisher, examples_per_task, samples, rank)
        self.penalties: list[DiagonalPenalty | EKFACPenalty] = []
        self._active: list[DiagonalPenalty | EKFACPenalty] = []

    def _begin(self, examples: Examples) -> None:
        self.likelihood(examples, self.options.fisher)  # that it can be told shows before training
        self._active = [penalty.fitted(self.blocks) for penalty in self.penalties]

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        vector, rank = shapes.parameters, self.options.rank
        if self.penalty == "diagonal":  # F and μ, fitted to a task's model; float64 while they are taken
            return Needs(2 * vector, 2 * vector + shapes.steps, 5 * vector + shapes.passing(self.options.examples))
        kept = (shapes.ekfac(rank) + vector) * (shapes.tasks if self.mode == "separate" else 1)
        return Needs(kept, shapes.metric(rank) + shapes.steps, self.options.taking(shapes) + vector)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        return self.options.sizes(shapes.blocks) if self.penalty == "ekfac" else {}

    @property
    def is_idle(self) -> bool:
        """Whether there is no penalty."""
        return not self._active or not self.strength

    def force(self, gradient: Vector) -> Vector:
        """Return the gradient of the penalised loss."""
        weights = {name: self.blocks[name].values() for name in gradient}
        total = dict(gradient)
        for penalty in self._active:
            for name, part in penalty.gradient(weights).items():
                total[name] = total[name] + self.strength * part
        return total

    def _end(self, examples: Examples) -> None:
        weights = {name: block.values().clone() for name, block in self.blocks.items()}
        if self.penalty == "diagonal":
            fisher = self.options.diagonal(self, examples)
            parabola = next((p for p in self.penalties if isinstance(p, DiagonalPenalty)), DiagonalPenalty())
            if self.mode == "online":
                parabola.replace(fisher, weights, self.decay)
            else:
                parabola.add(fisher, weights)
            self.penalties = [parabola]
            return
        online = [p for p in self.penalties if isinstance(p, EKFACPenalty)] if self.mode == "online" else []
        merged = online[0].ekfac if online else self.options.empty()
        self.options.add_to(merged, self, examples, decay=self.decay)
        newest = EKFACPenalty(merged, {**online[0].centre, **weights} if online else weights)  # frozen layers stay
        self.penalties = [newest] if online else [*self.penalties, newest]

    @property
    def memory_bytes(self) -> int:
        """Bytes of the Fishers and weights."""
        return sum(penalty.bytes for penalty in self.penalties)

    def _state(self) -> dict[str, Any]:
        return super()._state() | {
            "kind": self.penalty,
            "penalties": [penalty.state_dict() for penalty in self.penalties],
        }

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        if state["kind"] != self.penalty:
            raise UserError(f"this is the state of EWC(penalty='{state['kind']}'), not of penalty='{self.penalty}'")
        kind: type[DiagonalPenalty | EKFACPenalty] = DiagonalPenalty if self.penalty == "diagonal" else EKFACPenalty
        self.penalties = [kind.from_state_dict(penalty) for penalty in state["penalties"]]
        self._active = []

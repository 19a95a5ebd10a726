"""Natural Continual Learning."""

from __future__ import annotations

from typing import Any

from ong.curvature import FisherType, Metric, Unsupported, Vector
from ong.plugins.ong import ONG

__all__ = ["NCL"]


class NCL(ONG):
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
    order, the less the more they matter. The first task is trained without a prior, as every strategy trains it here;
    the paper draws it to 0. F is EKFAC merged data-free (math.md §2) where the paper merges K-FAC's.

    Source: Kao, Jensen, van de Ven, Bernacchia, Hennequin, "Natural continual learning: success is a journey, not
    (just) a destination", arXiv 2106.08085, §2; the authors' code, tachukao/ncl, ``learners/laplace.py``.

    Attributes:
        ekfac: F.
    """

    def __init__(
        self,
        *,
        damping: float = 1e-3,
        prior_precision: float | None = None,
        pull: float = 1.0,
        fisher: FisherType = "rademacher",
        fisher_examples: int = 1000,
        fisher_samples: int = 1,
        eigenbasis: bool = True,
        unsupported: Unsupported = "error",
        seed: int = 0,
    ) -> None:
        """Choose the strengths.

        Args:
            damping: λ > 0, in units of the Fisher's eigenvalues.
            prior_precision: λ₀, between 0 and ``damping``; None is ``damping``, as published.
            pull: γ ≥ 0; 1 is the paper's.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a λ about 100 times that of
                the others.
            fisher_examples: training examples of a finished task that its Fisher is taken from.
            fisher_samples: random draws an example for the random Fisher types.
            eigenbasis: train in the metric's eigenbasis, see :class:`ong.ONG`.
            unsupported: ``"error"`` or ``"ignore"`` for layers of unknown type.
            seed: the examples drawn and the random cotangents.

        Raises:
            ValueError: a number out of range or an unknown choice.
        """
        super().__init__(
            metric="prior",
            projection="none",
            damping=damping,
            pull=pull,
            eigenbasis=eigenbasis,
            fisher=fisher,
            fisher_examples=fisher_examples,
            fisher_samples=fisher_samples,
            unsupported=unsupported,
            seed=seed,
        )
        self.prior_precision = damping if prior_precision is None else prior_precision
        if not 0 <= self.prior_precision <= damping:
            raise ValueError(
                f"prior_precision must be between 0 and damping, got {prior_precision} with damping={damping}"
            )

    def _update(self, gradient: Vector, strategy: Any) -> Vector | None:
        """Return v by M⁻¹(g + γ(F+λ₀)d) = M⁻¹(g − γ(λ−λ₀)d) + γλd, d = θ − μ: no rotation more than without pull."""
        update, metric = super()._update(gradient, strategy), self._task.metric
        if update is None or metric is None or not self.pull:
            return update
        moved = self._moved(metric)
        return {name: part + self.pull * self.damping * moved[name] for name, part in update.items()}

    def _pulled(self, gradient: Vector, metric: Metric) -> Vector:
        """Return g − γ(λ−λ₀)(θ − μ), the part of the pull that is to be preconditioned."""
        strength = self.pull * (self.damping - self.prior_precision)
        if not strength:
            return gradient
        moved = self._moved(metric)
        return {name: part - strength * moved[name] for name, part in gradient.items()}

"""Output likelihoods as exponential families: what the labels' moments are at given network outputs.

p(y|x) = exp(t(y)ᵀh − A(h)) with outputs h ∈ R^C. Everything an estimator's variance needs are the cumulants
of t: η = ∇A (mean), I = ∇²A = Cov t, κ = ∇³A and K = E[(t−η)⊗⁴] = ∇⁴A + the three pairings of I ⊗ I
(Soen & Sun, arXiv 2107.04205, section 3). Arrays grow as C⁴; the contracted forms need only C numbers a
coordinate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Family"]


class Family(ABC):
    """One likelihood. Outputs ``h`` and coordinate vectors ``u, v, …`` are ``[..., C]`` and broadcast.

    A contraction such as ``fourth(h, u, u, u, u)`` is K(u, u, u, u): with u = ∂h/∂θ_i it is the fourth
    moment of the score's i-th entry.
    """

    name: str

    @abstractmethod
    def mean(self, h: Tensor) -> Tensor:
        """Return η = E[t], ``[..., C]``."""

    @abstractmethod
    def fisher(self, h: Tensor) -> Tensor:
        """Return I = Cov t, the Fisher information of the outputs, ``[..., C, C]``."""

    @abstractmethod
    def third_cumulant(self, h: Tensor) -> Tensor:
        """Return κ_abc = E[(t−η)_a (t−η)_b (t−η)_c], ``[..., C, C, C]``."""

    @abstractmethod
    def fourth_moment(self, h: Tensor) -> Tensor:
        """Return K_abcd, the fourth central moment of t, ``[..., C, C, C, C]``. For small C only."""

    @abstractmethod
    def factor(self, h: Tensor) -> Tensor:
        """Return B with B Bᵀ = I, ``[..., C, C]``: the cotangents ``rademacher`` and ``exact`` push back."""

    @abstractmethod
    def second(self, h: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return uᵀ I v in O(C)."""

    @abstractmethod
    def third(self, h: Tensor, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """Return κ(u, v, w) in O(C)."""

    @abstractmethod
    def fourth(self, h: Tensor, u: Tensor, v: Tensor, w: Tensor, q: Tensor) -> Tensor:
        """Return K(u, v, w, q) in O(C)."""

    @abstractmethod
    def square_variance(self, h: Tensor, u: Tensor) -> Tensor:
        """Return K(u,u,u,u) − (uᵀIu)² = Var[(uᵀ(t−η))²] without cancellation: never negative."""

    @abstractmethod
    def factor_fourth(self, h: Tensor, u: Tensor) -> Tensor:
        """Return Σ_c b_c⁴ with b = Bᵀu, the part of (uᵀIu)² that signs ε = ±1 leave without variance."""

    @abstractmethod
    def apply_factor(self, h: Tensor, noise: Tensor) -> Tensor:
        """Return B ε in O(C)."""

    @abstractmethod
    def outer_norms(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return (λ_max, Frobenius norm) of K − I⊗I as a C²×C² matrix, both exact, in C² memory."""

    @abstractmethod
    def fisher_bound(self, h: Tensor) -> Tensor:
        """Return a bound on λ_max(I) in O(C)."""

    def outer_bound(self, h: Tensor) -> Tensor:
        """Return a bound on λ_max(K − I⊗I) in O(C): twice ``fisher_bound``.

        For a symmetric X with ‖X‖_F = 1 and d = t − η, E[(dᵀXd)²] ≤ max‖d‖² tr(X I X) ≤ 2 λ_max(I) when ‖d‖²
        ≤ 2.
        """
        return 2 * self.fisher_bound(h)

    @abstractmethod
    def sample(self, h: Tensor, draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw labels from p(y|x) for each row of ``h`` ``[B, C]``: ``[B, draws, …]``."""

    @abstractmethod
    def residual(self, h: Tensor, labels: Tensor) -> Tensor:
        """Return t(y) − η for labels ``[B, N, …]``: ``[B, N, C]``.

        Raises:
            UserError: a label lies outside the likelihood's support, or the shapes do not agree.
        """

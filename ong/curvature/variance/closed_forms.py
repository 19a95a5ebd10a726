"""Closed-form variances of one label draw, coordinate by coordinate: functions of h, J_i and D_i alone.

Estimators of F_ii = J_iᵀ I J_i at one input, with s_i = J_iᵀ(t−η), J_i = ∂h/∂θ_i and D_i = ∂²h/∂θ_i²:

==============  =====================================  ==========================================
name            estimate from one draw                 variance
==============  =====================================  ==========================================
``mc``          Î₁ = s_i²                              V₁ = K(J_i,J_i,J_i,J_i) − F_ii²
``hessian``     Î₂ = F_ii − (t−η)ᵀD_i                  V₂ = D_iᵀ I D_i
``mixture``     (1−w) Î₁ + w Î₂, best w                (V₁V₂ − C₁₂²) / (V₁ + V₂ − 2C₁₂)
``rademacher``  (J_iᵀ B ε)², ε = ±1                    2 (F_ii² − Σ_c b_c⁴), b = BᵀJ_i
``gaussian``    (J_iᵀ B ε)², ε ~ N(0, 1)               2 F_ii²
==============  =====================================  ==========================================

C₁₂ = Cov(Î₁, Î₂) = −κ(J_i, J_i, D_i). All are unbiased. Î₂ is the second derivative of −log p(y|x).
Sources: Soen & Sun, arXiv 2107.04205, and its diagonal follow-up of 2024 for the first three rows; the last
two follow from the fourth moments of ε.
Shapes: ``h`` ``[B, 1, C]``, ``J`` and ``D`` ``[B, n, C]``; results ``[B, n]``.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ong.curvature.variance.families import Family

__all__ = ["ESTIMATORS", "SECOND_ORDER", "coordinate_variances", "mix_variances", "mixture_weight"]

ESTIMATORS = ("mc", "hessian", "mixture", "rademacher", "gaussian")
SECOND_ORDER = frozenset({"hessian", "mixture"})


def coordinate_variances(
    family: Family, h: Tensor, J: Tensor, D: Tensor, estimators: Collection[str] = ESTIMATORS
) -> dict[str, Tensor]:
    """Return ``fisher`` (F_ii) and each estimator's one-draw variance; ``cross`` (C₁₂) with ``mixture``."""
    fisher = family.second(h, J, J)
    found = {"fisher": fisher}
    if not {"mc", "mixture"}.isdisjoint(estimators):
        found["mc"] = family.square_variance(h, J)
    if not SECOND_ORDER.isdisjoint(estimators):
        found["hessian"] = family.second(h, D, D)
    if "mixture" in estimators:
        found["cross"] = -family.third(h, J, J, D)
        found["mixture"] = mix_variances(found["mc"], found["hessian"], found["cross"])
    if "rademacher" in estimators:
        found["rademacher"] = 2 * (fisher.square() - family.factor_fourth(h, J)).clamp(min=0)
    if "gaussian" in estimators:
        found["gaussian"] = 2 * fisher.square()
    return {key: value for key, value in found.items() if key in estimators or key in {"fisher", "cross"}}


def mixture_weight(mc: Tensor, hessian: Tensor, cross: Tensor) -> Tensor:
    """Return w = (V₁ − C₁₂)/(V₁ + V₂ − 2C₁₂), the weight of Î₂; 0 where Î₁ and Î₂ are the same variable."""
    spread = mc + hessian - 2 * cross  # Var(Î₁ − Î₂)
    same = spread <= 4 * torch.finfo(mc.dtype).eps * (mc + hessian)
    return torch.where(same, torch.zeros_like(mc), (mc - cross) / torch.where(same, torch.ones_like(mc), spread))


def mix_variances(mc: Tensor, hessian: Tensor, cross: Tensor) -> Tensor:
    """Return the variance of the best mixture, never above the smaller of the two."""
    w = mixture_weight(mc, hessian, cross)
    mixed = (1 - w).square() * mc + w.square() * hessian + 2 * w * (1 - w) * cross
    return torch.minimum(mixed.clamp(min=0), torch.minimum(mc, hessian))

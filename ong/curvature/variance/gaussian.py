"""The Gaussian likelihood with unit covariance: outputs are means, t is the label itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ong.curvature.variance.families import Family
from ong.errors import UserError

__all__ = ["Gaussian"]


class Gaussian(Family):
    """y|x ~ N(h, 1): η = h, I the identity, κ = 0, K the three pairings of I ⊗ I, whatever h is."""

    name = "gaussian"

    def mean(self, h: Tensor) -> Tensor:
        """Return h."""
        return h

    def fisher(self, h: Tensor) -> Tensor:
        """Return the identity."""
        return torch.diag_embed(torch.ones_like(h))

    def third_cumulant(self, h: Tensor) -> Tensor:
        """Return zeros: the Gaussian has no skew."""
        return h.new_zeros(*h.shape, h.shape[-1], h.shape[-1])

    def fourth_moment(self, h: Tensor) -> Tensor:
        """Return δ_ab δ_cd + δ_ac δ_bd + δ_ad δ_bc."""
        eye = self.fisher(h)
        return sum(
            (torch.einsum(f"...{left},...{right}->...abcd", eye, eye) for left, right in (("ab", "cd"), ("ac", "bd"))),
            torch.einsum("...ad,...bc->...abcd", eye, eye),
        )

    def factor(self, h: Tensor) -> Tensor:
        """Return the identity."""
        return self.fisher(h)

    def apply_factor(self, h: Tensor, noise: Tensor) -> Tensor:
        """Return ε."""
        return noise

    def second(self, h: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return uᵀv."""
        return (u * v).sum(-1)

    def third(self, h: Tensor, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """Return 0."""
        return torch.zeros_like((u * v * w).sum(-1))

    def fourth(self, h: Tensor, u: Tensor, v: Tensor, w: Tensor, q: Tensor) -> Tensor:
        """Return uᵀv wᵀq + uᵀw vᵀq + uᵀq vᵀw."""
        dot = self.second
        return dot(h, u, v) * dot(h, w, q) + dot(h, u, w) * dot(h, v, q) + dot(h, u, q) * dot(h, v, w)

    def square_variance(self, h: Tensor, u: Tensor) -> Tensor:
        """Return 2 ‖u‖⁴."""
        return 2 * u.square().sum(-1).square()

    def factor_fourth(self, h: Tensor, u: Tensor) -> Tensor:
        """Return Σ_c u_c⁴."""
        return u.square().square().sum(-1)

    def outer_norms(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return 2 (on symmetric matrices) and √(2C² + 2C)."""
        classes = h.shape[-1]
        one = torch.ones_like(h[..., 0])
        return 2 * one, math.sqrt(2 * classes * (classes + 1)) * one

    def fisher_bound(self, h: Tensor) -> Tensor:
        """Return 1, which is λ_max(I)."""
        return torch.ones_like(h[..., 0])

    def sample(self, h: Tensor, draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw real vectors ``[B, draws, C]``."""
        shape = (h.shape[0], draws, h.shape[-1])
        return h.unsqueeze(1) + torch.randn(shape, generator=generator, dtype=h.dtype, device=h.device)

    def residual(self, h: Tensor, labels: Tensor) -> Tensor:
        """Return y − h for real labels ``[B, N, C]``."""
        if labels.ndim != 3 or (labels.shape[0], labels.shape[2]) != tuple(h.shape):
            expected = f"[inputs, draws, outputs] = [{h.shape[0]}, N, {h.shape[-1]}]"
            raise UserError(f"labels of shape {tuple(labels.shape)}; expected {expected}")
        if labels.is_complex() or not torch.isfinite(labels).all():
            raise UserError(
                "labels outside the Gaussian support: NaN, infinite or complex; expected finite real numbers"
            )
        return labels.to(h) - h.unsqueeze(1)

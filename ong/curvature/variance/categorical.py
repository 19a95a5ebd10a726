"""The categorical likelihood: outputs are logits, t is the one-hot vector of the class."""

from __future__ import annotations

import torch
from torch import Tensor

from ong.curvature.variance.families import Family
from ong.errors import UserError

__all__ = ["Categorical"]


class Categorical(Family):
    """p(y|x) = softmax(h)_y. With d_y = e_y − p and ū_y = u_y − pᵀu (centred), uᵀd_y = ū_y.

    So every contraction is a sum over labels: K(u, v, w, q) = Σ_y p_y ū_y v̄_y w̄_y q̄_y.
    """

    name = "categorical"

    def mean(self, h: Tensor) -> Tensor:
        """Return the class probabilities p."""
        return torch.softmax(h, -1)

    def fisher(self, h: Tensor) -> Tensor:
        """Return diag p − p pᵀ."""
        return self._central(h, 2)

    def third_cumulant(self, h: Tensor) -> Tensor:
        """Return Σ_y p_y d_y⊗³."""
        return self._central(h, 3)

    def fourth_moment(self, h: Tensor) -> Tensor:
        """Return Σ_y p_y d_y⊗⁴."""
        return self._central(h, 4)

    def _central(self, h: Tensor, order: int) -> Tensor:
        p = self.mean(h)
        axes = "abcd"[:order]
        terms = ",".join(f"...y{axis}" for axis in axes)
        return torch.einsum(f"...y,{terms}->...{axes}", p, *[_deviations(p)] * order)

    def factor(self, h: Tensor) -> Tensor:
        """Return diag √p − p √pᵀ."""
        p = self.mean(h)
        return torch.diag_embed(p.sqrt()) - p.unsqueeze(-1) * p.sqrt().unsqueeze(-2)

    def apply_factor(self, h: Tensor, noise: Tensor) -> Tensor:
        """Return √p ∘ ε − p (√pᵀε)."""
        p = self.mean(h)
        scaled = p.sqrt() * noise
        return scaled - p * scaled.sum(-1, keepdim=True)

    def second(self, h: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return Σ_y p_y ū_y v̄_y."""
        return self._contract(h, u, v)

    def third(self, h: Tensor, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
        """Return Σ_y p_y ū_y v̄_y w̄_y."""
        return self._contract(h, u, v, w)

    def fourth(self, h: Tensor, u: Tensor, v: Tensor, w: Tensor, q: Tensor) -> Tensor:
        """Return Σ_y p_y ū_y v̄_y w̄_y q̄_y."""
        return self._contract(h, u, v, w, q)

    def _contract(self, h: Tensor, *vectors: Tensor) -> Tensor:
        product = p = self.mean(h)
        for vector in vectors:
            product = product * _centred(p, vector)
        return product.sum(-1)

    def square_variance(self, h: Tensor, u: Tensor) -> Tensor:
        """Return Σ_y p_y (ū_y² − F)² with F = Σ_y p_y ū_y²."""
        p = self.mean(h)
        squares = _centred(p, u).square()
        mean = (p * squares).sum(-1, keepdim=True)
        return (p * (squares - mean).square()).sum(-1)

    def factor_fourth(self, h: Tensor, u: Tensor) -> Tensor:
        """Return Σ_c p_c² ū_c⁴, since (Bᵀu)_c = √p_c ū_c."""
        p = self.mean(h)
        return (p * _centred(p, u).square()).square().sum(-1)

    def outer_norms(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Use the C×C Gram matrix of √p_y (d_y d_yᵀ − I): same non-zero eigenvalues as K − I⊗I."""
        p = self.mean(h)
        d, fisher = _deviations(p), self.fisher(h)
        products = (d @ d.mT).square()
        against_mean = torch.einsum("...ya,...ab,...yb->...y", d, fisher, d)
        norm = fisher.square().sum((-2, -1), keepdim=True)
        gram = products - against_mean.unsqueeze(-1) - against_mean.unsqueeze(-2) + norm
        gram = p.sqrt().unsqueeze(-1) * gram * p.sqrt().unsqueeze(-2)
        return torch.linalg.eigvalsh(gram)[..., -1], torch.linalg.matrix_norm(gram)

    def fisher_bound(self, h: Tensor) -> Tensor:
        """Return min(max p, 1 − ‖p‖²): I is below diag p, and its trace is 1 − ‖p‖²."""
        p = self.mean(h)
        return torch.minimum(p.amax(-1), (p * (1 - p)).sum(-1))

    def sample(self, h: Tensor, draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw class indices ``[B, draws]``."""
        return torch.multinomial(self.mean(h), draws, replacement=True, generator=generator)

    def residual(self, h: Tensor, labels: Tensor) -> Tensor:
        """Return onehot(y) − p for integer labels ``[B, N]``."""
        classes = h.shape[-1]
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise UserError(f"labels of type {labels.dtype}; a categorical likelihood needs integer class indices")
        if labels.ndim != 2 or labels.shape[0] != h.shape[0]:
            raise UserError(f"labels of shape {tuple(labels.shape)}; expected [inputs, draws] = [{h.shape[0]}, N]")
        outside = labels[(labels < 0) | (labels >= classes)]
        if outside.numel():
            raise UserError(f"label {int(outside[0])} is outside the categorical support 0…{classes - 1}")
        onehot = torch.nn.functional.one_hot(labels.long(), classes).to(h)
        return onehot - self.mean(h).unsqueeze(-2)


def _centred(p: Tensor, u: Tensor) -> Tensor:
    return u - (p * u).sum(-1, keepdim=True)


def _deviations(p: Tensor) -> Tensor:
    """d[y, a] = (e_y − p)_a."""
    return torch.eye(p.shape[-1], dtype=p.dtype, device=p.device) - p.unsqueeze(-2)

"""Running second moments of a layer's factors, Λ of its inputs and Λ̃ of its back-propagated cotangents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ong.curvature.factors import Factors

__all__ = ["Moments", "batch_moments"]


@dataclass
class Moments:
    """Exponentially weighted sums of Λ and Λ̃ and the sum of their weights.

    After batches 1 … n with decay β the sums are (1 − β) Σ_k βⁿ⁻ᵏ Λ_k and their weight 1 − βⁿ;
    :attr:`inputs_cov` and :attr:`outputs_cov` divide by it, so they are weighted means from the first batch
    on (bias correction). β = 0 keeps the last batch only.

    Attributes:
        inputs_sum: ``[columns, columns]``.
        outputs_sum: ``[rows, rows]``.
        weight: 1 − βⁿ.
    """

    inputs_sum: Tensor
    outputs_sum: Tensor
    weight: float = 0.0

    @classmethod
    def empty(cls, rows: int, columns: int, like: Tensor) -> Moments:
        """Return moments of no batch, in the dtype (at least float32) and on the device of ``like``."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return cls(like.new_zeros(columns, columns, dtype=dtype), like.new_zeros(rows, rows, dtype=dtype))

    def add(self, inputs: Tensor, outputs: Tensor, decay: float) -> None:
        """Take in Λ and Λ̃ of one batch with weight 1 − ``decay``; the tensors before are left as they were."""
        self.inputs_sum = torch.lerp(self.inputs_sum, inputs.to(self.inputs_sum), 1 - decay)
        self.outputs_sum = torch.lerp(self.outputs_sum, outputs.to(self.outputs_sum), 1 - decay)
        self.weight = decay * self.weight + (1 - decay)

    @property
    def inputs_cov(self) -> Tensor:
        """Λ, ``[columns, columns]``: the weighted mean over batches."""
        return self.inputs_sum / self.weight

    @property
    def outputs_cov(self) -> Tensor:
        """Λ̃, ``[rows, rows]``: the weighted mean over batches."""
        return self.outputs_sum / self.weight


def batch_moments(factors: Factors) -> tuple[Tensor, Tensor]:
    """Return Λ = mean_nt a aᵀ and Λ̃ = mean_n Σ_t δ δᵀ.

    The T positions of a convolution are averaged over in Λ and summed over in Λ̃, so that Λ̃ ⊗ Λ is K-FAC's
    block T · S ⊗ A of :class:`ong.curvature.eigenblock.Covariances`.
    """
    a, d = factors.inputs.flatten(0, 1), factors.outputs.flatten(0, 1)
    return a.T @ a / len(a), d.T @ d / len(factors.outputs)

"""Quadratic penalties around old weights, as online Laplace and elastic weight consolidation use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ong.curvature.blocks import Block, Vector
from ong.curvature.ekfac import EKFAC

__all__ = ["DiagonalPenalty", "EKFACPenalty", "grown", "padded"]


def grown(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a matrix with zeros for new rows and last columns."""
    return F.pad(matrix, (0, shape[1] - matrix.shape[1], 0, shape[0] - matrix.shape[0]))


def padded(centre: Tensor | None, values: Tensor) -> Tensor:
    """Return old weights in the present shape, the present ones where a layer did not exist yet."""
    if centre is None:
        return values
    if centre.shape == values.shape:
        return centre
    result = values.clone()
    result[: centre.shape[0], : centre.shape[1]] = centre
    return result


@dataclass
class DiagonalPenalty:
    """½ Σ_t Σ_i F_t,ii (θ_i − θ_t,i)², up to a constant the one parabola ½ Σ_i S_i (θ_i − μ_i)² that it is.

    Attributes:
        curvature: S = Σ_t F_t of each block, ``[rows, columns]`` in the weights' dtype.
        centre: μ = S⁻¹ Σ_t F_t θ_t.
    """

    curvature: Vector = field(default_factory=dict)
    centre: Vector = field(default_factory=dict)

    def add(self, fisher: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Add a task's parabola: S' = S + F, μ' = (Sμ + Fθ)/S'."""
        for name, new in fisher.items():
            theta = weights[name].to(new)
            old = grown(self.curvature[name].to(new), new.shape) if name in self.curvature else torch.zeros_like(new)
            centre = grown(self.centre[name].to(new), new.shape) if name in self.centre else theta
            share = torch.where(old + new > 0, new / (old + new), 0.0)
            self.curvature[name] = (old + new).to(weights[name])
            self.centre[name] = (centre + share * (theta - centre)).to(weights[name])

    def replace(self, fisher: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
        """Move on to S' = decay · S + F around the newest weights alone (online)."""
        for name in [*self.curvature, *(name for name in fisher if name not in self.curvature)]:
            theta = weights[name] if name in weights else self.centre[name]  # a frozen layer stays
            total = fisher[name].to(theta) if name in fisher else torch.zeros_like(theta)
            if name in self.curvature:
                total = total + decay * grown(self.curvature[name], theta.shape)
            self.curvature[name], self.centre[name] = total, theta

    def fitted(self, blocks: Mapping[str, Block]) -> DiagonalPenalty:
        """Return a copy over the blocks given, in the weights' dtype and shapes, zero on new rows and last columns."""

        def over(vector: Vector) -> Vector:
            like = {name: block.values() for name, block in blocks.items() if name in vector}
            return {name: grown(vector[name], value.shape).to(value) for name, value in like.items()}

        return DiagonalPenalty(over(self.curvature), over(self.centre))

    def gradient(self, weights: Mapping[str, Tensor]) -> Vector:
        """Return S ∘ (θ − μ), O(parameters) however many tasks it holds."""
        return {name: s * (weights[name] - self.centre[name]) for name, s in self.curvature.items() if name in weights}

    @property
    def bytes(self) -> int:
        """Memory of S and μ."""
        return sum(t.numel() * t.element_size() for t in [*self.curvature.values(), *self.centre.values()])

    def state_dict(self) -> dict[str, Any]:
        """Return S and μ."""
        return {"curvature": dict(self.curvature), "centre": dict(self.centre)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> DiagonalPenalty:
        """Rebuild a penalty from its :meth:`state_dict`."""
        return cls(dict(state["curvature"]), dict(state["centre"]))


class EKFACPenalty:
    """½ (θ − μ)ᵀF(θ − μ) with F an EKFAC: couplings within a layer count, which a diagonal does not see.

    Attributes:
        ekfac: F.
        centre: μ.
    """

    def __init__(self, ekfac: EKFAC, centre: Vector) -> None:
        self.ekfac, self.centre = ekfac, centre

    def fitted(self, blocks: Mapping[str, Block]) -> EKFACPenalty:
        """Return a copy over the blocks given, zero on new rows and last columns."""
        known = {name: block for name, block in blocks.items() if name in self.ekfac.blocks}
        ekfac = EKFAC(self.ekfac.rank, {name: self.ekfac.block_like(name, block) for name, block in known.items()})
        return EKFACPenalty(ekfac, {name: padded(self.centre[name], block.values()) for name, block in known.items()})

    def gradient(self, weights: Mapping[str, Tensor]) -> Vector:
        """Return F(θ − μ)."""
        return {
            name: block.operator(lambda eigenvalues: eigenvalues)(weights[name] - self.centre[name])
            for name, block in self.ekfac.blocks.items()
            if name in weights
        }

    @property
    def bytes(self) -> int:
        """Memory of F and μ."""
        return self.ekfac.bytes + sum(t.numel() * t.element_size() for t in self.centre.values())

    def state_dict(self) -> dict[str, Any]:
        """Return F and μ."""
        return {"ekfac": self.ekfac.state_dict(), "rank": self.ekfac.rank, "centre": dict(self.centre)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> EKFACPenalty:
        """Rebuild a penalty from its :meth:`state_dict`."""
        ekfac = EKFAC(state["rank"])
        ekfac.load_state_dict(state["ekfac"])
        return cls(ekfac, dict(state["centre"]))

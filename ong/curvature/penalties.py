"""Quadratic penalties around old weights, as online Laplace and elastic weight consolidation use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ong.curvature.blocks import Vector
from ong.curvature.eigenblock import EigenBlock
from ong.curvature.ekfac import EKFAC

__all__ = ["DiagonalPenalty", "EKFACPenalty"]


def _grown(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.pad(matrix, (0, shape[1] - matrix.shape[1], 0, shape[0] - matrix.shape[0]))


@dataclass
class DiagonalPenalty:
    """½ Σ_t Σ_i F_t,ii (θ_i − θ_t,i)², as the one parabola ½ Σ_i S_i (θ_i − μ_i)² + constant that it is.

    Attributes:
        curvature: S = Σ_t F_t of each block, ``[rows, columns]`` float64.
        centre: μ = S⁻¹ Σ_t F_t θ_t.
        constant: what remains at θ = μ, because the tasks' weights differ.
    """

    curvature: Vector = field(default_factory=dict)
    centre: Vector = field(default_factory=dict)
    constant: float = 0.0

    def add(self, fisher: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Add a task's parabola: S' = S + F, μ' = (Sμ + Fθ)/S', constant' = constant + ½ Σ SF/S' (θ − μ)²."""
        for name, new in fisher.items():
            theta = weights[name].double()
            old = _grown(self.curvature[name], new.shape) if name in self.curvature else torch.zeros_like(new)
            centre = _grown(self.centre[name], new.shape) if name in self.centre else theta
            share = torch.where(old + new > 0, new / (old + new), 0.0)
            self.constant += 0.5 * float((share * old * (theta - centre).square()).sum())
            self.curvature[name], self.centre[name] = old + new, centre + share * (theta - centre)

    def replace(self, fisher: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
        """Move on to S' = decay · S + F around the newest weights alone (online)."""
        for name in [*self.curvature, *(name for name in fisher if name not in self.curvature)]:
            theta = (weights[name] if name in weights else self.centre[name]).double()  # a frozen layer stays
            total = fisher[name] if name in fisher else torch.zeros_like(theta)
            if name in self.curvature:
                total = total + decay * _grown(self.curvature[name], theta.shape)
            self.curvature[name], self.centre[name] = total, theta

    def fitted(self, weights: Mapping[str, Tensor]) -> DiagonalPenalty:
        """Return a copy over the layers given, in the weights' dtype and shapes, zero on new rows and last columns."""

        def over(vector: Vector) -> Vector:
            return {n: _grown(part, weights[n].shape).to(weights[n]) for n, part in vector.items() if n in weights}

        return DiagonalPenalty(over(self.curvature), over(self.centre), self.constant)

    def value(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the penalty, a scalar that gradients flow through; O(parameters), however many tasks it holds."""
        terms = [(s * (weights[name] - self.centre[name]).square()).sum() for name, s in self.curvature.items()]
        return 0.5 * sum(terms, start=torch.zeros(())) + self.constant

    @property
    def bytes(self) -> int:
        """Memory of S and μ."""
        return sum(t.numel() * t.element_size() for t in [*self.curvature.values(), *self.centre.values()])

    def state_dict(self) -> dict[str, Any]:
        """Return S, μ and the constant."""
        return {"curvature": dict(self.curvature), "centre": dict(self.centre), "constant": self.constant}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> DiagonalPenalty:
        """Rebuild a penalty from its :meth:`state_dict`."""
        return cls(dict(state["curvature"]), dict(state["centre"]), state["constant"])


@dataclass
class EKFACPenalty:
    """½ (θ − μ)ᵀF(θ − μ) with F an EKFAC: couplings within a layer count, which a diagonal does not see.

    Attributes:
        ekfac: F.
        centre: μ.
    """

    ekfac: EKFAC
    centre: Vector

    def fitted(self, weights: Mapping[str, Tensor]) -> EKFACPenalty:
        """Return a copy over the layers given, in the weights' dtype and shapes, zero on new rows and last columns."""
        blocks, centre = {}, {}
        for name, block in self.ekfac.blocks.items():
            if name not in weights:
                continue
            like = weights[name]
            parts: dict[str, Any] = dict(vars(block.grown(like.shape[0], like.shape[1])))
            cast: dict[str, Any] = {
                key: part.to(like) if isinstance(part, Tensor) else part for key, part in parts.items()
            }
            blocks[name], centre[name] = EigenBlock(**cast), _grown(self.centre[name], like.shape).to(like)
        return EKFACPenalty(EKFAC(blocks), centre)

    def value(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the penalty, a scalar that gradients flow through; two rotations a layer."""
        terms = []
        for name, block in self.ekfac.blocks.items():
            moved = block.rotate(weights[name] - self.centre[name])
            terms.append((block.eigenvalues * moved.square()).sum())
        return 0.5 * sum(terms, start=torch.zeros(()))

    @property
    def bytes(self) -> int:
        """Memory of F and μ."""
        kept = [getattr(block, f.name) for block in self.ekfac.blocks.values() for f in fields(EigenBlock)]
        tensors = [part for part in [*kept, *self.centre.values()] if isinstance(part, Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return F and μ."""
        return {"ekfac": self.ekfac.state_dict(), "centre": dict(self.centre)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> EKFACPenalty:
        """Rebuild a penalty from its :meth:`state_dict`."""
        ekfac = EKFAC()
        ekfac.load_state_dict(state["ekfac"])
        return cls(ekfac, dict(state["centre"]))

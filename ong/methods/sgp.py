"""Scaled Gradient Projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ong.curvature import Vector
from ong.errors import UserError
from ong.methods.data import Examples
from ong.methods.gpm import GPM
from ong.methods.room import Needs, Shapes
from ong.methods.statistics import BatchNorm

__all__ = ["SGP", "importances"]


def importances(lengths: Tensor, scale: float) -> Tensor:
    """Return λ_i = (α+1)σ_i/(ασ_i + max σ), between 0 and 1, for singular values σ ``[k]`` and α = ``scale``."""
    if not len(lengths):
        return lengths
    return (scale + 1) * lengths / (scale * lengths + lengths.max().clamp_min(torch.finfo(lengths.dtype).tiny))


class SGP(GPM):
    """v_l = g_l (I − N_l Λ_l N_lᵀ): as GPM, but each basis vector is held back by its importance λ_i ≤ 1 only.

    With A the covariance of a finished task's inputs, R of any of its roots, σ_i the singular value of a basis vector
    in it (√(n_iᵀAn_i) for the old ones, √ of the residual's eigenvalues for new ones),

        λ_i = (α+1)σ_i/(ασ_i + max σ),    λ_i ← min(1, λ_i before + λ_i) for the old ones.

    α = 0 scales by σ/max σ; α → ∞ is GPM. Guarantees gᵀv ≥ 0, as 0 ⪯ NΛNᵀ ⪯ I. Old outputs move at first order along
    basis vectors with λ_i < 1: plasticity is bought with them. How N grows is GPM's.

    Source: Saha, Roy, "Continual learning with scaled gradient projection", AAAI 2023, arXiv 2302.01386, Eqs. 1 to 6;
    the accumulation over tasks as in the authors' code (sahagobinda/SGP, ``update_SGP``, α = 10 by default).

    Attributes:
        bases: N of each layer, ``[columns, k]``.
        importance: λ of each layer, ``[k]``.
    """

    keeps_outputs = False

    def __init__(
        self,
        *,
        threshold: float | Sequence[float] = 0.95,
        first_threshold: float | None = None,
        threshold_increment: float = 0.0,
        scale: float = 10.0,
        examples_per_task: int = 300,
        batch_norm: BatchNorm = "update",
        seed: int = 0,
    ) -> None:
        """Choose the share to be protected, and how hard.

        Args:
            threshold: ε in (0, 1], see :class:`GPM`.
            first_threshold: ε of the first layer; None leaves it at ``threshold``.
            threshold_increment: what ε grows by with each finished task, up to 1.
            scale: α ≥ 0.
            examples_per_task: training examples drawn from each finished task.
            batch_norm: ``"freeze"`` holds running statistics still after the first task, ``"update"`` does not.
            seed: which examples are drawn.

        Raises:
            UserError: a number out of range.
        """
        super().__init__(
            threshold=threshold,
            first_threshold=first_threshold,
            threshold_increment=threshold_increment,
            examples_per_task=examples_per_task,
            batch_norm=batch_norm,
            seed=seed,
        )
        if not scale >= 0:
            raise UserError(f"scale must be at least 0, got {scale}")
        self.scale = scale
        self.importance: dict[str, Tensor] = {}
        self._scaled: dict[str, Tensor] = {}

    def _begin(self, examples: Examples) -> None:
        super()._begin(examples)
        self._scaled = {name: basis * self.importance[name].to(basis) for name, basis in self._active.items()}

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        needs = super()._needs(shapes, examples)
        return needs.plus(training=needs.kept)  # N Λ

    def project(self, vector: Vector) -> Vector:
        """Return v_l (I − N_l Λ_l N_lᵀ) of each layer; whatever is no layer stays."""
        scaled, bases = self._scaled, self._active
        return {n: part - (part @ scaled[n]) @ bases[n].T if n in bases else part for n, part in vector.items()}

    def _keep(self, name: str, inputs_cov: Tensor, threshold: float) -> None:
        old = self._basis(name, inputs_cov)
        super()._keep(name, inputs_cov, threshold)
        basis = self.bases[name].to(inputs_cov)
        rest = inputs_cov - old @ (old.T @ inputs_cov) if old.shape[1] else inputs_cov
        rest = rest - (rest @ old) @ old.T if old.shape[1] else rest
        new = basis[:, old.shape[1] :]
        energies = torch.cat([((inputs_cov @ old) * old).sum(0), ((rest @ new) * new).sum(0)]).clamp_min(0)
        before = self.importance.get(name, energies.new_zeros(0)).to(energies)
        found = importances(energies.sqrt(), self.scale) + F.pad(before, (0, len(energies) - len(before)))
        self.importance[name] = found.clamp_max(1).to(self.bases[name])

    @property
    def memory_bytes(self) -> int:
        """Bytes of the bases and importances."""
        return super().memory_bytes + sum(t.numel() * t.element_size() for t in self.importance.values())

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"importance": dict(self.importance)}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.importance = dict(state["importance"])

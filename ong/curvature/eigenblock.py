"""One block of an EKFAC: leading eigenpairs of the inputs' covariance, all of the outputs', eigenvalues in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ong.curvature.covariances import Covariances
from ong.curvature.eigenpairs import eigenpairs
from ong.curvature.operators import ThinOperator
from ong.curvature.precision import double
from ong.curvature.sketch import Sketch

__all__ = ["EigenBlock"]

_NEARLY = 1.25  # times the rank: so few columns more cost less with eigenvalues of their own


@dataclass(frozen=True)
class EigenBlock:
    """F of one block: Λ on the r leading columns of the inputs' eigenbasis, one number a row on all others.

    With U ``[columns, r]`` and U_S ``[rows, rows]``,

        F V = U_S[ (Λ − τ1ᵀ) ∘ (U_SᵀVU) ]Uᵀ + U_S diag(τ) U_Sᵀ V,    A ≈ U diag(D) Uᵀ + ρ(I − UUᵀ).

    With r = columns it is the full EKFAC. The trace of F does not depend on r.

    Attributes:
        inputs_basis: U, leading eigenvectors of A in columns.
        inputs_values: D, ``[r]``, falling.
        inputs_rest: ρ, the mean of A's other eigenvalues; ``[]``.
        outputs_basis: U_S, eigenvectors of S in columns.
        outputs_values: the eigenvalues of S, ``[rows]``.
        eigenvalues: Λ, ``[rows, r]``.
        rest: τ, ``[rows]``.
        positions: T of the data added last.
    """

    inputs_basis: Tensor
    inputs_values: Tensor
    inputs_rest: Tensor
    outputs_basis: Tensor
    outputs_values: Tensor
    eigenvalues: Tensor
    rest: Tensor
    positions: float = 1.0

    @classmethod
    def zero(cls, rows: int, columns: int, device: torch.device | None = None) -> EigenBlock:
        """Return F = 0, float64 where the device has it."""
        dtype = torch.float32 if device is not None and device.type == "mps" else torch.float64
        empty = torch.zeros(columns, 0, dtype=dtype, device=device)
        identity = torch.eye(rows, dtype=dtype, device=device)
        none = empty.new_zeros(rows)
        return cls(empty, empty.new_zeros(0), empty.new_zeros(()), identity, none, empty.new_zeros(rows, 0), none)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return len(self.outputs_basis), len(self.inputs_basis)

    @property
    def others(self) -> int:
        """The number of columns that share one eigenvalue a row."""
        return self.inputs_basis.shape[0] - self.inputs_basis.shape[1]

    @property
    def inputs_cov(self) -> Tensor:
        """A, ``[columns, columns]``."""
        along = (self.inputs_basis * (self.inputs_values - self.inputs_rest)) @ self.inputs_basis.T
        along.diagonal().add_(self.inputs_rest)
        return along

    @property
    def outputs_cov(self) -> Tensor:
        """S, ``[rows, rows]``."""
        return (self.outputs_basis * self.outputs_values) @ self.outputs_basis.T

    def to(self, like: Tensor) -> EigenBlock:
        """Return the block in a tensor's dtype, on its device."""
        return self._with(lambda t: t.to(like))

    def doubled(self) -> EigenBlock:
        """Return the block in float64, on the CPU where its device has none."""
        return self._with(double)

    def _with(self, function: Callable[[Tensor], Tensor]) -> EigenBlock:
        state = self.state_dict()
        return EigenBlock(**(state | {name: function(v) for name, v in state.items() if isinstance(v, Tensor)}))

    def scaled(self, factor: float) -> EigenBlock:
        """Return ``factor`` · F."""
        names = ("inputs_values", "inputs_rest", "outputs_values", "eigenvalues", "rest")
        return replace(self, **{name: factor * getattr(self, name) for name in names})

    def grown(self, rows: int, columns: int) -> EigenBlock:
        """Return the block with further rows and last columns, on which F is 0.

        Raises:
            ValueError: a block that has become smaller.
        """
        more_rows, more_columns = rows - self.shape[0], columns - self.shape[1]
        if more_rows < 0 or more_columns < 0:
            raise ValueError(f"a block cannot shrink from {self.shape} to {(rows, columns)}")
        if not (more_rows or more_columns):
            return self
        basis = F.pad(self.inputs_basis, (0, 0, 0, more_columns))
        values, eigenvalues = self.inputs_values, self.eigenvalues
        if more_columns and self.others and (self.inputs_rest or self.rest.any()):
            # What the old columns share is 0 on the new ones, so that these need eigenvectors of their own.
            own = torch.eye(more_columns, dtype=basis.dtype, device=basis.device)
            basis = torch.cat([basis, F.pad(own, (0, 0, self.shape[1], 0))], 1)
            values, eigenvalues = F.pad(values, (0, more_columns)), F.pad(eigenvalues, (0, more_columns))
        outputs = F.pad(self.outputs_basis, (0, more_rows, 0, more_rows))
        outputs.diagonal()[self.shape[0] :] = 1
        return EigenBlock(
            basis,
            values,
            self.inputs_rest,
            outputs,
            F.pad(self.outputs_values, (0, more_rows)),
            F.pad(eigenvalues, (0, 0, 0, more_rows)),
            F.pad(self.rest, (0, more_rows)),
            self.positions,
        )

    def moved(self, added: Covariances, *, rank: int | None, decay: float = 1.0) -> EigenBlock:
        """Return the block in the leading eigenbases of ``decay · old + added``, without the added eigenvalues.

        With O_S = (U'_SᵀU_S)^{∘2}, O_A = (U'ᵀU)^{∘2} the diagonal of F in the new bases is

            Λ' = decay · O_S[ (Λ − τ1ᵀ) O_Aᵀ + τ1ᵀ ],

        and τ' takes what is left of each row's sum, so the trace is kept.

        Args:
            added: covariances of the new data, float64.
            rank: r; None keeps all columns, as does a rank of nearly all.
            decay: factor on what was there.
        """
        old = self.doubled()
        outputs_cov = added.outputs
        if decay and old.inputs_basis.shape[1]:
            outputs_cov = outputs_cov + decay * old.outputs_cov
        values, inputs_basis, rest = old._inputs_with(added, rank, decay)
        outputs_values, outputs_basis = eigenpairs(outputs_cov, added.rounding)
        overlap_in = (inputs_basis.T @ old.inputs_basis).square()
        overlap_out = (outputs_basis.T @ old.outputs_basis).square()
        above = old.eigenvalues - old.rest[:, None]
        eigenvalues = decay * (overlap_out @ (above @ overlap_in.T + old.rest[:, None]))
        totals = decay * (overlap_out @ (old.eigenvalues.sum(1) + old.others * old.rest))
        return EigenBlock(
            inputs_basis.clone(memory_format=torch.contiguous_format),
            values,
            rest,
            outputs_basis.clone(memory_format=torch.contiguous_format),
            outputs_values.clamp_min(0),
            torch.zeros_like(eigenvalues),
            values.new_zeros(len(outputs_basis)),
            added.positions,
        ).plus(eigenvalues, totals)

    def _inputs_with(self, added: Covariances, rank: int | None, decay: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return D, U and ρ of ``decay · A + added``."""
        known = bool(decay and self.inputs_basis.shape[1])
        if isinstance(added.inputs, Sketch):
            assert rank is not None
            sketch = added.inputs + self._sketched(added.inputs.vectors).scaled(decay) if known else added.inputs
            values, basis = sketch.leading(rank, added.rounding)
            return values, basis, ((sketch.trace - values.sum()) / (len(basis) - rank)).clamp_min(0)
        inputs_cov = added.inputs + decay * self.inputs_cov if known else added.inputs
        columns = len(inputs_cov)
        kept = columns if rank is None or columns <= _NEARLY * rank else rank
        all_values, vectors = eigenpairs(inputs_cov, added.rounding)
        values, basis = all_values[columns - kept :].flip(0).clamp_min(0), vectors[:, columns - kept :].flip(1)
        others = columns - kept
        rest = ((inputs_cov.trace() - values.sum()) / others).clamp_min(0) if others else values.new_zeros(())
        return values, basis, rest

    def _sketched(self, vectors: Tensor) -> Sketch:
        """Return AΩ and the trace of A."""
        above = self.inputs_values - self.inputs_rest
        image = self.inputs_basis @ (above[:, None] * (self.inputs_basis.T @ vectors)) + self.inputs_rest * vectors
        return Sketch(vectors, image, self.inputs_values.sum() + self.others * self.inputs_rest)

    def plus(self, eigenvalues: Tensor, totals: Tensor) -> EigenBlock:
        """Return the block with further eigenvalues ``[rows, r]``, and with rows' sums over all columns ``[rows]``."""
        rest = self.rest
        if self.others:
            rest = rest + ((totals - eigenvalues.sum(1)) / self.others).clamp_min(0)
        return replace(self, eigenvalues=self.eigenvalues + eigenvalues, rest=rest)

    def operator(self, function: Callable[[Tensor], Tensor]) -> ThinOperator:
        """Return f(F), for f of the eigenvalues."""
        along, rest = function(self.eigenvalues), function(self.rest)
        if not self.others:
            return ThinOperator(self.inputs_basis, self.outputs_basis, along, None)
        return ThinOperator(
            self.inputs_basis,
            self.outputs_basis,
            along - rest[:, None],
            (self.outputs_basis * rest) @ self.outputs_basis.T,
        )

    def trace(self) -> float:
        """Return the trace of F."""
        return float(self.eigenvalues.sum() + self.others * self.rest.sum())

    def kfac_eigenvalues(self) -> Tensor:
        """Return the eigenvalues that plain K-FAC has in this basis, T · d_S d_Aᵀ, ``[rows, r]``.

        Meaningful for the Fisher of one data set, not for a sum over tasks.
        """
        return self.positions * torch.outer(self.outputs_values, self.inputs_values)

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

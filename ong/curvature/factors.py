"""Per-example gradients of one block as factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ong.curvature.precision import double

__all__ = ["Factors", "Lookups", "as_factors", "as_rows", "joined", "joined_examples"]


@dataclass(frozen=True)
class Factors:
    """Gradients of N examples for one block, G_n = Σ_t outputs_nt inputs_ntᵀ.

    Attributes:
        inputs: ``[N, T, columns]``, a with 1 appended for the bias.
        outputs: ``[N, T, rows]``, the back-propagated δ.
        rounding: relative, of the coarsest numbers that went into them (those of autocast's type under autocast).
    """

    inputs: Tensor
    outputs: Tensor
    rounding: float = 0.0

    def summed(self) -> Tensor:
        """Return Σ_n G_n, ``[rows, columns]``."""
        total: Tensor = self.outputs.flatten(0, 1).T @ self.inputs.flatten(0, 1)
        return total

    def absolute(self) -> Factors:
        """Return |δ| and |a|."""
        return Factors(self.inputs.abs(), self.outputs.abs(), self.rounding)

    def lengths(self) -> Tensor:
        """Return ‖δ_nt‖‖a_nt‖, ``[N, T]``."""
        lengths: Tensor = torch.linalg.vector_norm(self.outputs, dim=2) * torch.linalg.vector_norm(self.inputs, dim=2)
        return lengths


class Lookups(Factors):
    """Factors whose δ are one-hot codes of rows, as an embedding's are: the rows' indices in place of the codes.

    Attributes:
        inputs: ``[N, T, columns]``, a.
        indices: ``[N, T]``, the row that each a is added to.
        rows: of the block's matrix.
        rounding: relative, of a.
    """

    indices: Tensor
    rows: int

    def __init__(self, inputs: Tensor, indices: Tensor, rows: int, rounding: float = 0.0) -> None:
        fields = {"inputs": inputs, "indices": indices, "rows": rows, "rounding": rounding}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def outputs(self) -> Tensor:
        """δ written out, ``[N, T, rows]``, made anew each time."""
        codes = self.inputs.new_zeros(*self.indices.shape, self.rows)
        return codes.scatter_(2, self.indices[..., None], 1)

    def summed(self) -> Tensor:
        """Return Σ_n G_n, ``[rows, columns]``."""
        total = self.inputs.new_zeros(self.rows, self.inputs.shape[2])
        return total.index_add_(0, self.indices.flatten(), self.inputs.flatten(0, 1))

    def absolute(self) -> Lookups:
        """Return |a|."""
        return Lookups(self.inputs.abs(), self.indices, self.rows, self.rounding)

    def lengths(self) -> Tensor:
        """Return ‖a_nt‖, ``[N, T]``."""
        lengths: Tensor = torch.linalg.vector_norm(self.inputs, dim=2)
        return lengths

    def squares(self) -> Tensor:
        """Return Σ_n G_n^{∘2}, ``[rows, columns]`` float64; only rows that were looked up are worked on."""
        n = torch.arange(len(self.indices), device=self.indices.device)
        places, place = torch.unique(n[:, None] * self.rows + self.indices, return_inverse=True)
        gradients = self.inputs.new_zeros(len(places), self.inputs.shape[2])
        gradients.index_add_(0, place.flatten(), self.inputs.flatten(0, 1))
        squares = double(gradients.square())
        total = squares.new_zeros(self.rows, squares.shape[1])
        return total.index_add_(0, (places % self.rows).to(total.device), squares)


def as_rows(gradients: Tensor) -> Factors:
    """Return gradients ``[N, …]`` of a parameter of its own, a matrix of one row, as factors."""
    rows = gradients.reshape(len(gradients), 1, -1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return Factors(rows, rows.new_ones(len(rows), 1, 1), torch.finfo(gradients.dtype).eps)


def as_factors(gradient: Tensor, rounding: float, *, looked_up: bool) -> Factors:
    """Return one gradient ``[rows, columns]`` as the factors of an example: each row is a position of its own.

    Args:
        gradient: at least float32.
        rounding: relative, of it.
        looked_up: whether its rows are an embedding's, of which only those that are not zero are positions.
    """
    rows = len(gradient)
    if looked_up:
        places = gradient.any(1).nonzero()[:, 0] if gradient.any() else torch.zeros_like(gradient[:1, 0]).long()
        return Lookups(gradient[places][None], places[None], rows, rounding)
    return Factors(gradient[None], torch.eye(rows, dtype=gradient.dtype, device=gradient.device)[None], rounding)


def joined(parts: Sequence[Factors], dim: int = 0) -> Factors:
    """Return factors of further examples (``dim=0``), or at further positions (``dim=1``), as one."""
    if len(parts) == 1:
        return parts[0]
    inputs, rounding = torch.cat([part.inputs for part in parts], dim), max(part.rounding for part in parts)
    if all(isinstance(part, Lookups) for part in parts):
        lookups = [part for part in parts if isinstance(part, Lookups)]
        return Lookups(inputs, torch.cat([part.indices for part in lookups], dim), lookups[0].rows, rounding)
    return Factors(inputs, torch.cat([part.outputs for part in parts], dim), rounding)


def joined_examples(parts: Sequence[Factors | None]) -> Factors:
    """Return factors of single examples as one, zero where an example did not reach the block, such as an expert."""
    like = next(part for part in parts if part is not None)
    most = max(part.inputs.shape[1] for part in parts if part is not None)
    return joined([_padded(part, like, most) for part in parts])


def _padded(part: Factors | None, like: Factors, positions: int) -> Factors:
    """Return the factors with as many positions, zero in those they lack."""
    found = 0 if part is None else part.inputs.shape[1]
    if part is not None and found == positions:
        return part
    inputs = like.inputs.new_zeros(1, positions, like.inputs.shape[2])
    if part is not None:
        inputs[:, :found] = part.inputs
    if isinstance(like, Lookups):
        indices = like.indices.new_zeros(1, positions)
        if isinstance(part, Lookups):
            indices[:, :found] = part.indices
        return Lookups(inputs, indices, like.rows, like.rounding)
    outputs = like.inputs.new_zeros(1, positions, like.outputs.shape[2])
    if part is not None:
        outputs[:, :found] = part.outputs
    return Factors(inputs, outputs, like.rounding)

"""Numbers of 11 significant bits, with a power of two for each direction, as float16 holds them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ong.projection.lookups import LookupRows
from ong.projection.patches import PatchRows
from ong.projection.rows import DenseRows, FactoredRows, Rows

__all__ = ["as_halves", "from_halves", "rounded", "rounded_rows"]

_TOP = 14  # a direction's largest number is made 2^13 to 2^14, of float16's 2^16
_LEAST = -100  # exponent below which all of a direction's numbers count as small


def as_halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tensor ``[M, …]`` as float16, and the exponents ``[M]`` that :func:`from_halves` wants; it may round.

    Numbers down to 2⁻²⁶ of a direction's largest keep 11 significant bits.
    """
    largest = tensor.flatten(1).abs().amax(1) if tensor.numel() else tensor.new_zeros(len(tensor))
    exponents = torch.frexp(largest).exponent.clamp_min(_LEAST) - _TOP
    return torch.ldexp(tensor, -_over(exponents, tensor)).half(), exponents.to(torch.int16)


def from_halves(halves: Tensor, exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what :func:`as_halves` was given, in its dtype."""
    return torch.ldexp(halves.to(dtype), _over(exponents.int(), halves))


def rounded(tensor: Tensor) -> Tensor:
    """Return a tensor ``[M, …]`` of numbers that :func:`as_halves` takes without rounding."""
    for _ in range(2):  # the largest number may be rounded to the next power of two, for which others have a bit less
        tensor = from_halves(*as_halves(tensor), tensor.dtype)
    return tensor


def rounded_rows(rows: Rows) -> Rows:
    """Return gradients whose numbers, or whose factors', are rounded so."""
    if isinstance(rows, DenseRows):
        return DenseRows(rounded(rows.matrices))
    if isinstance(rows, FactoredRows | PatchRows):
        return replace(rows, inputs=rounded(rows.inputs), outputs=rounded(rows.outputs))
    if isinstance(rows, LookupRows):
        return replace(rows, inputs=rounded(rows.inputs))
    raise TypeError(f"gradients as they are collected are wanted, got {type(rows).__name__}")


def _over(exponents: Tensor, like: Tensor) -> Tensor:
    """Lay one number a direction out over its numbers."""
    return exponents.reshape(-1, *[1] * (like.ndim - 1))

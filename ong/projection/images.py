"""M⁻¹G of one block: what a step in a metric multiplies with, worked out once for a task."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, reduce
from typing import Protocol

import torch
from torch import Tensor

from ong.curvature import DiagonalOperator, Operator, ThinOperator, double
from ong.projection.derived import StackedRows
from ong.projection.lookups import LookupRows
from ong.projection.patches import PatchRows
from ong.projection.rows import DenseRows, FactoredRows, Rows
from ong.projection.slabs import by_direction, chunks, slabs

__all__ = ["Image", "gram_of", "image_of"]

_CHUNK = 2**22  # numbers of one intermediate while a Gram of rank-one gradients is built


class Image(Protocol):
    """M⁻¹G, for G the rows of one block and M⁻¹ the block's operator."""

    def dot(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return GᵀM⁻¹v, ``[M]``, and what :meth:`off` needs of v."""

    def off(self, matrix: Tensor, known: Tensor, coefficients: Tensor) -> Tensor:
        """Return M⁻¹(v − G c), for ``known`` the second of :meth:`dot`."""

    def gram(self) -> Tensor:
        """Return GᵀM⁻¹G, ``[M, M]`` float64, symmetric up to rounding."""


def image_of(rows: Rows, operator: Operator, worked: Rows | None = None) -> Image:
    """Return M⁻¹G in the cheapest form there is.

    Args:
        rows: G, as it is kept.
        operator: M⁻¹.
        worked: G in the form that products are taken with; ``rows`` by default.
    """
    if isinstance(rows, FactoredRows) and rows.positions == 1 and isinstance(operator, ThinOperator):
        return ThinImage(rows, operator)
    return AnyImage(rows, operator, rows if worked is None else worked)


class AnyImage:
    """M⁻¹G by the operator itself."""

    def __init__(self, rows: Rows, operator: Operator, worked: Rows) -> None:
        self._rows, self._operator, self._worked = rows, operator, worked

    def dot(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return GᵀM⁻¹v, ``[M]``, and M⁻¹v."""
        image = self._operator(matrix)
        return self._worked.dot(image), image

    def off(self, matrix: Tensor, known: Tensor, coefficients: Tensor) -> Tensor:
        """Return M⁻¹(v − G c)."""
        return known - self._operator(self._worked.combine(coefficients))

    def gram(self) -> Tensor:
        """Return GᵀM⁻¹G: gradients are multiplied out, some columns or some directions at a time."""
        rows, operator = self._rows, self._operator
        if isinstance(operator, DiagonalOperator) and isinstance(rows, LookupRows):
            rows, used = rows.compact()
            return _scaled_gram(rows, operator.scale[used])
        if isinstance(operator, DiagonalOperator) and not by_direction(rows):
            return _scaled_gram(rows, operator.scale)
        if isinstance(operator, ThinOperator) and isinstance(rows, FactoredRows | PatchRows):
            return _thin_gram(rows, operator)
        if isinstance(operator, ThinOperator) and isinstance(rows, DenseRows | StackedRows) and not by_direction(rows):
            return _columns_gram(rows, operator)
        return torch.cat([double(rows.dot(operator(rows.dense(indices)))) for indices in chunks(rows)])


def _scaled_gram(rows: Rows, scale: Tensor) -> Tensor:
    """Return Σ ⟨G_m, scale ∘ G_n⟩."""
    total = double(rows.like.new_zeros(len(rows), len(rows)))
    for start, stop in slabs(rows):
        part = double(rows.columns(start, stop))
        total += (part * double(scale[:, start:stop])).flatten(1) @ part.flatten(1).T
    return total


def _thin_gram(rows: FactoredRows | PatchRows, operator: ThinOperator) -> Tensor:
    """Return Σ ⟨G_m, R G_n⟩ + ⟨H_m, gain ∘ H_n⟩, H = U_SᵀGU: both operators act on factors."""
    total = _scaled_gram(rows.left(operator.outputs_basis.T).right(operator.inputs_basis), operator.gain)
    if operator.rest is not None:
        images = rows.left(operator.rest)
        for start, stop in slabs(rows):
            total += _product(images.columns(start, stop), rows.columns(start, stop))
    return total


def _columns_gram(rows: DenseRows | StackedRows, operator: ThinOperator) -> Tensor:
    """Return the same of gradients that are no factors of one form, from their columns."""
    basis, rest = operator.inputs_basis, operator.rest
    total = double(rows.like.new_zeros(len(rows), len(rows)))
    turned = rows.like.new_zeros(len(rows), rows.shape[0], basis.shape[1])
    for start, stop in slabs(rows):
        part = rows.columns(start, stop)
        turned += part @ basis[start:stop]
        if rest is not None:
            total += _product(rest @ part, part)
    turned = operator.outputs_basis.T @ turned
    return total + _product(operator.gain * turned, turned)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return all ⟨left_m, right_n⟩, in float64."""
    return double(left).flatten(1) @ double(right).flatten(1).T


class ThinImage:
    """M⁻¹G for gradients δaᵀ and M⁻¹V = RV + U_S[gain ∘ (U_SᵀVU)]Uᵀ.

    With d = U_Sᵀδ, α = Uᵀa and H = U_SᵀVU a step takes five products with ``[rows, columns]`` matrices, where the
    operator applied twice would take eight:

        GᵀM⁻¹v = (Rδ)ᵀV a + dᵀ(gain ∘ H)α,    M⁻¹(v − Gc) = R(V − Gc) + U_S[gain ∘ (H − Σ c d αᵀ)]Uᵀ.
    """

    def __init__(self, rows: FactoredRows, operator: ThinOperator) -> None:
        self._rows, self._operator = rows, operator
        self._small = FactoredRows(rows.inputs @ operator.inputs_basis, rows.outputs @ operator.outputs_basis)

    @cached_property
    def _rest(self) -> FactoredRows | None:
        """R G."""
        rest = self._operator.rest
        return None if rest is None else FactoredRows(self._rows.inputs, self._rows.outputs @ rest)

    def dot(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return GᵀM⁻¹v, ``[M]``, and H."""
        operator = self._operator
        turned = operator.outputs_basis.T @ (matrix @ operator.inputs_basis)
        against = self._small.dot(operator.gain * turned)
        return (against if self._rest is None else against + self._rest.dot(matrix)), turned

    def off(self, matrix: Tensor, known: Tensor, coefficients: Tensor) -> Tensor:
        """Return M⁻¹(v − G c)."""
        operator = self._operator
        along = operator.outputs_basis @ (operator.gain * (known - self._small.combine(coefficients)))
        if operator.rest is None:
            return along @ operator.inputs_basis.T
        return (operator.rest @ (matrix - self._rows.combine(coefficients))).addmm_(along, operator.inputs_basis.T)

    def gram(self) -> Tensor:
        """Return GᵀM⁻¹G = (ΔRΔᵀ)∘(AAᵀ) + X diag(gain) Xᵀ, X_m = d_m α_mᵀ."""
        operator, rows = self._operator, self._rows
        along, turned = self._small.inputs[:, 0], self._small.outputs[:, 0]
        total = double(turned.new_zeros(len(rows), len(rows)))
        if self._rest is not None:
            a = double(rows.inputs[:, 0])
            total += double(self._rest.outputs[:, 0] @ rows.outputs[:, 0].T) * (a @ a.T)
        step = max(1, _CHUNK // max(1, operator.gain.numel()))
        parts = range(0, len(rows), step)
        for i in parts:
            left = (turned[i : i + step, :, None] * operator.gain * along[i : i + step, None]).flatten(1)
            for j in (j for j in parts if j >= i):  # what lies before it is known by symmetry
                right = (turned[j : j + step, :, None] * along[j : j + step, None]).flatten(1)
                product = double(left @ right.T)
                total[i : i + step, j : j + step] += product
                if j > i:
                    total[j : j + step, i : i + step] += product.T
        return total


def gram_of(images: Iterable[Image]) -> Tensor:
    """Return GᵀM⁻¹G over blocks, of which there is one at least, ``[M, M]`` float64."""
    total = reduce(torch.add, (image.gram() for image in images))
    return (total + total.T) / 2

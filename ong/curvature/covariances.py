"""Second moments of a layer's factors: those of its inputs, whole or sketched, and those of its outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.linalg import get_blas_funcs
from torch import Tensor

from ong.curvature.factors import Factors
from ong.curvature.precision import double
from ong.curvature.sketch import Sketch, is_wide, random_vectors
from ong.errors import NotFiniteError
from ong.threads import one_blas_thread

__all__ = ["Covariances", "covariances"]


@dataclass(frozen=True)
class Covariances:
    """Second moments of one block's factors over a data set.

    Attributes:
        inputs: A, ``[columns, columns]``, mean over examples, positions and cotangent sets; a sketch of it for wide
            layers.
        outputs: S, ``[rows, rows]``, mean over examples and positions, summed over cotangent sets.
        positions: T, so that the Kronecker-factored Fisher is T · S ⊗ A.
        rounding: relative, of the factors.
    """

    inputs: Tensor | Sketch
    outputs: Tensor
    positions: float
    rounding: float


def covariances(
    factors: Iterable[dict[str, Factors]], examples: int, *, rank: int | None = None, seed: int = 0
) -> dict[str, Covariances]:
    """Return A and S of every block in float64.

    Args:
        factors: the factors of all batches and cotangent sets.
        examples: N, the number of examples that took part.
        rank: eigenpairs of A that are wanted, by which wide layers get a sketch; None forms every A.
        seed: of the sketches' random vectors.

    Raises:
        NotFiniteError: a factor that is not finite.
    """
    sums: dict[str, tuple[Any, Tensor, int, int]] = {}
    rounding: dict[str, float] = {}
    vectors: dict[int, Tensor] = {}
    for parts in factors:
        for name, part in parts.items():
            a, d = part.inputs.flatten(0, 1), part.outputs.flatten(0, 1)
            columns = a.shape[1]
            inputs: Tensor | Sketch
            if rank is not None and is_wide(columns, rank):
                if columns not in vectors:
                    vectors[columns] = random_vectors(columns, rank, seed).to(a.device)
                inputs = Sketch.of_rows(a, vectors[columns])
            else:
                inputs = double(_upper_moment(a))
            outputs = double(_upper_moment(d))
            rows, seen = len(a), len(part.inputs)
            if name in sums:
                old = sums[name]
                inputs, outputs, rows, seen = old[0] + inputs, old[1] + outputs, old[2] + rows, old[3] + seen
            sums[name] = (inputs, outputs, rows, seen)
            rounding[name] = max(torch.finfo(a.dtype).eps, part.rounding, rounding.get(name, 0.0))
    result = {}
    for name, (inputs, outputs, rows, seen) in sums.items():
        if not (_is_finite(inputs) and outputs.isfinite().all()):
            raise NotFiniteError(
                f"the factors of layer '{name}' are not finite: the weights or the inputs have diverged"
            )
        positions = rows / seen  # seen counts every example once a cotangent set
        inputs = inputs.scaled(1 / rows) if isinstance(inputs, Sketch) else (inputs + inputs.triu(1).T) / rows
        outputs = (outputs + outputs.triu(1).T) / (examples * positions)
        result[name] = Covariances(inputs, outputs, positions, rounding[name])
    return result


def _is_finite(inputs: Tensor | Sketch) -> bool:
    return bool((inputs.image if isinstance(inputs, Sketch) else inputs).isfinite().all())


def _upper_moment(rows: Tensor) -> Tensor:
    """Return XᵀX on and above its diagonal, multiplied in X's dtype; by the BLAS routine for it on a CPU."""
    if rows.device.type != "cpu" or len(rows) < 2:
        return (rows.T @ rows).triu()
    transposed = rows.detach().contiguous().numpy().T
    with one_blas_thread():
        (syrk,) = get_blas_funcs(("syrk",), (transposed,))
        upper: Tensor = torch.from_numpy(syrk(1.0, transposed, lower=True).T)  # Fortran's lower half, zero elsewhere
    return upper

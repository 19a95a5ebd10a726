"""The diagonal of the Fisher, from per-example gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature.batches import Batch, Forward, batch_size, logits_of, select, targets_of
from ong.curvature.blocks import Block, Vector, evaluating
from ong.curvature.cover import PROBED, cover
from ong.curvature.examples import example_gradients
from ong.curvature.fisher import FisherType, check_fisher, cotangents
from ong.curvature.likelihoods import Likelihood
from ong.curvature.operators import DiagonalOperator
from ong.curvature.positions import factor_numbers, in_pieces, positions_of
from ong.curvature.precision import double
from ong.curvature.squares import gradient_squares
from ong.errors import NotFiniteError

__all__ = ["DiagonalBlock", "diagonal_fisher"]


@dataclass(frozen=True)
class DiagonalBlock:
    """F of one block as its diagonal.

    Attributes:
        eigenvalues: ``[rows, columns]``.
    """

    eigenvalues: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.eigenvalues.shape[0], self.eigenvalues.shape[1]

    def to(self, like: Tensor) -> DiagonalBlock:
        """Return the block in a tensor's dtype, on its device."""
        return DiagonalBlock(self.eigenvalues.to(like))

    def scaled(self, factor: float) -> DiagonalBlock:
        """Return ``factor`` · F."""
        return DiagonalBlock(factor * self.eigenvalues)

    def plus(self, squares: Tensor) -> DiagonalBlock:
        """Return the block with further squares added, float64."""
        return DiagonalBlock(double(self.eigenvalues) + squares)

    def grown(self, rows: int, columns: int) -> DiagonalBlock:
        """Return the block with further rows and last columns, on which F is 0.

        Raises:
            ValueError: a block that has become smaller.
        """
        more_rows, more_columns = rows - self.shape[0], columns - self.shape[1]
        if more_rows < 0 or more_columns < 0:
            raise ValueError(f"a block cannot shrink from {self.shape} to {(rows, columns)}")
        return DiagonalBlock(F.pad(self.eigenvalues, (0, more_columns, 0, more_rows)))

    def operator(self, function: Callable[[Tensor], Tensor]) -> DiagonalOperator:
        """Return f(F), for f of the eigenvalues."""
        return DiagonalOperator(function(self.eigenvalues))

    def trace(self) -> float:
        """Return the trace of F."""
        return float(self.eigenvalues.sum())

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors by name."""
        return {"eigenvalues": self.eigenvalues}


def diagonal_fisher(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    fisher: FisherType = "rademacher",
    likelihood: Likelihood = "categorical",
    samples: int = 1,
    generator: torch.Generator | None = None,
    forward: Forward | None = None,
    blocks: Mapping[str, Block] | None = None,
) -> Vector:
    """Return diag F = (1/N) Σ_n Σ_u (J_nᵀu)^{∘2}, a matrix ``[rows, columns]`` float64 a block.

    Gradients are squared example by example, δ²ᵀa² for a plain linear layer; the square of a batch's mean gradient
    is another quantity, smaller by up to the batch size. Blocks that took no part in the forward are absent.

    Args:
        model: the network, put in eval mode meanwhile.
        batches: the data.
        fisher: see :func:`ong.curvature.fisher.cotangents`.
        likelihood: of the targets given the outputs.
        samples: draws an example of the random Fisher types.
        generator: their randomness, on the model's device; one seeded with 0 by default.
        forward: maps a batch to logits ``[N, C]``; :func:`ong.curvature.batches.logits_of` by default.
        blocks: the model's blocks, where the caller has them already.

    Raises:
        ValueError: no examples.
        UnsupportedLayerError: without ``blocks``, a model that :func:`ong.curvature.cover` refuses.
        NotFiniteError: a gradient that is not finite.
    """
    check_fisher(fisher)
    examples = sum(batch_size(batch) for batch in batches)
    if not examples:
        raise ValueError("the Fisher needs at least one example")
    run = forward if forward is not None else (lambda batch: logits_of(model, batch))
    if blocks is None:
        blocks = cover(model, run, select(batches[0], slice(0, PROBED)))
    device = next(model.parameters()).device
    draws = generator if generator is not None else torch.Generator(device).manual_seed(0)

    def sets(logits: Tensor, batch: Batch) -> Any:
        return cotangents(
            logits, fisher, likelihood=likelihood, targets=targets_of(batch), samples=samples, generator=draws
        )

    total: Vector = {}
    with evaluating(model):
        numbers = factor_numbers(blocks, positions_of(blocks, run, batches[0]))
        for batch in in_pieces(batches, numbers):
            for parts in example_gradients(blocks, run, batch, sets):
                for name, factors in parts.items():
                    squares = gradient_squares(factors) / examples
                    total[name] = total[name] + squares if name in total else squares
    for name, diagonal in total.items():
        if not diagonal.isfinite().all():
            raise NotFiniteError(
                f"the gradients of layer '{name}' are not finite: the weights or the inputs have diverged"
            )
    return total

"""The rotated layer that reads the batch's inputs: those rotated once a task, its projections in coefficients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ong.curvature import Block, BlockMetric
from ong.plugins.coefficients import PROBES, Coefficients, plain_sgd
from ong.plugins.held_linear import Bases
from ong.plugins.inputs import WorkedOut
from ong.projection import FactoredRows, Rows

__all__ = ["FirstLayer"]

_WORKED_OUT = 2**28  # numbers worked out from a task's inputs that are worth keeping


class FirstLayer:
    """What is known of a rotated layer before a step, as nothing it reads changes within a task.

    What projections in the metric take away from it may be held apart, in :class:`Coefficients` of M⁻¹G, see
    :meth:`prepare`.

    Attributes:
        name: the layer.
        coefficients: None while projections are taken in vectors.
    """

    def __init__(self, block: Block, optimizer: torch.optim.SGD) -> None:
        """Take the layer, and :meth:`turn_to` its bases next; its projections are taken in vectors."""
        self.name, self._block = block.name, block
        self._optimizer, self._inputs = optimizer, WorkedOut()
        self.coefficients: Coefficients | None = None
        self._scales: list[Tensor] = []  # M⁻¹, a tensor a parameter

    def turn_to(self, metric: BlockMetric, bases: Bases) -> None:
        """Take bases; where inputs have been worked out, U_A is the one they were worked out with."""
        self._metric, self._bases = metric, bases

    def prepare(self, strategy: Any, rows: Rows | None) -> Any:
        """Work out what the layer needs of a task's inputs.

        With directions its projections are held in coefficients from now on, where that is exact (the metric's scale is
        a sum of R products, so that M⁻¹G_m has R factors, and the optimizer is plain SGD) and costs less than two
        products with the directions.

        Args:
            strategy: the strategy, with its loader.
            rows: the layer's part of G in the eigenbasis, where updates are projections off it in the metric.

        Returns:
            A loader whose batches bring along the layer's rotated inputs, and their κ, see :class:`WorkedOut`.
        """
        width, terms = self._bases.columns, self._metric.terms
        before, self.coefficients = self.coefficients, None
        if isinstance(rows, FactoredRows) and terms is not None:
            positions = terms[0].shape[1]
            kernel = positions * (len(rows) + PROBES)
            once = self._inputs.fits(strategy, width + kernel, _WORKED_OUT)
            if self._worth(strategy.train_mb_size, positions, strategy.train_epochs if once else 1):
                self.coefficients = before
                if before is None:  # not the next piece of an online stream
                    assert self._block.weight is not None
                    self.coefficients = Coefficients(rows.scaled(terms))
                    self.coefficients.follow(self._optimizer, self._block.weight)
                    self._scales = self._block.split(self._metric.scale)
                width += kernel if once else 0
        if before is not None and before is not self.coefficients:
            before.close()

        def work(x: Tensor) -> Tensor:
            rotated = self._bases.rotated(x.to(self._bases.inputs))
            if self.coefficients is None or width == self._bases.columns:
                return rotated
            return torch.cat([rotated, self.coefficients.layout.kernel(rotated)], 1)

        return self._inputs.enrich(strategy, work, width, _WORKED_OUT)

    def _worth(self, batch: int, positions: int, uses: int) -> bool:
        """Return whether a step in coefficients multiplies less than two products with the directions."""
        height, width = self._block.shape
        cheaper = batch * positions * (width / uses + 2 * height) < 2 * height * width
        return cheaper and plain_sgd(self._optimizer, self._block.parameters)

    def offer(self, strategy: Any) -> None:
        """Have what was worked out for the batch ready for the next forward."""
        self._inputs.offer(strategy)
        if self.coefficients is not None:
            self.coefficients.watch()

    def take_back(self) -> None:
        """The strategy's own forward is over."""
        self._inputs.take_back()

    def look_up(self, x: Tensor, own: Coefficients | None) -> tuple[Tensor | None, Tensor | None]:
        """Return rotated inputs, where they are known, and what coefficients (the layer's, or its copy's) add."""
        rotated, kernel = None if x.requires_grad else self._inputs.of(x), None
        if rotated is not None and rotated.shape[1] > self._bases.columns:
            rotated, kernel = rotated[:, : self._bases.columns], rotated[:, self._bases.columns :]
        if own is None:
            return rotated, None
        rotated = self._bases.rotated(x.reshape(-1, x.shape[-1])) if rotated is None else rotated
        kernel = own.layout.kernel(rotated) if kernel is None else kernel
        return rotated, own.shift(kernel)

    def products(self) -> Tensor | None:
        """Return the layer's part of GᵀM⁻¹g, ``[M]``, where its projections are held in coefficients.

        None where they are not; and from now on they are not where :meth:`Coefficients.products` does not know them.
        """
        if self.coefficients is None:
            return None
        found = self.coefficients.products(self._block)
        if found is None:
            self.let_go()
        return found

    def move(self, step: Tensor) -> None:
        """Put M⁻¹g into the layer's gradient, and c into the coefficients' step."""
        assert self.coefficients is not None
        for parameter, scale in zip(self._block.parameters, self._scales, strict=True):
            assert parameter.grad is not None
            parameter.grad.mul_(scale)
        self.coefficients.take(step)

    def fold(self) -> None:
        """Put what the coefficients stand for into the rotated weights and their momentum."""
        if self.coefficients is not None:
            self.coefficients.fold(self._block, self._optimizer)

    def let_go(self) -> None:
        """Hold nothing in coefficients any more."""
        self.fold()
        if self.coefficients is not None:
            self.coefficients.close()
        self.coefficients = None
        held = vars(self._block.module).get("_ong_held")
        if held is not None:
            held.coefficients = None

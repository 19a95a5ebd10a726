"""The natural gradient in place, for updates that take no more than M⁻¹g."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn

from ong.curvature import Block, Metric

__all__ = ["Preconditioner"]


class Preconditioner:
    """Replaces the ``.grad`` fields by M⁻¹g; in the eigenbasis that is an elementwise scale."""

    def __init__(self, blocks: Mapping[str, Block], metric: Metric, held: Container[str]) -> None:
        """Lay out the scales.

        Args:
            blocks: the model's blocks.
            metric: M.
            held: blocks whose parameters are in M's eigenbasis while gradients are replaced.
        """
        self._parameters: list[nn.Parameter] = []
        self._scales: list[Tensor] = []
        self._rest = {name: block for name, block in blocks.items() if name not in held}
        self._metric = metric
        for name, block in blocks.items():
            if name in held:
                self._parameters += block.parameters
                self._scales += block.split(metric.blocks[name].scale)

    def __call__(self) -> None:
        """Replace the gradients there are."""
        pairs = [(p.grad, s) for p, s in zip(self._parameters, self._scales, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_mul_([g for g, _ in pairs], [s for _, s in pairs])
        for name, block in self._rest.items():
            if block.has_gradient:
                metric = self._metric.blocks[name]
                block.write_gradient(metric.rotate_back(metric.rotate(block.gradient()).mul_(metric.scale)))

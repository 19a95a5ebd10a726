"""The weights that a pull draws to."""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import Tensor

from ong.curvature import Block, Metric, Vector

__all__ = ["Anchor"]


class Anchor:
    """μ, the weights after the last task.

    Attributes:
        weights: μ, a matrix a block.
    """

    def __init__(self) -> None:
        """Start without weights: θ − μ is 0."""
        self.weights: Vector = {}
        self._turned: Vector = {}

    def drop(self, blocks: Mapping[str, Block]) -> None:
        """Let μ be the present weights."""
        self.weights = {name: block.values().clone() for name, block in blocks.items()}

    def begin(self) -> None:
        """A task begins, whose metric may be another one."""
        self._turned = {}

    def distance(self, blocks: Mapping[str, Block], metric: Metric, held: Container[str]) -> Vector:
        """Return θ − μ in the coordinates the weights are held in, zero where a layer did not exist a task ago.

        Args:
            blocks: the model's blocks.
            metric: the task's metric.
            held: blocks that train in its eigenbasis.
        """
        moved = {}
        for name, block in blocks.items():
            now = block.values(held=True)
            anchor = self.weights.get(name)
            if name not in held:
                moved[name] = now - _padded(anchor, now)
            elif anchor is None or anchor.shape != now.shape:  # what the layer has gained since is drawn nowhere
                values = block.values()
                moved[name] = metric.blocks[name].rotate(values - _padded(anchor, values))
            else:
                if name not in self._turned:
                    self._turned[name] = metric.blocks[name].rotate(anchor)
                moved[name] = now - self._turned[name]
        return moved


def _padded(anchor: Tensor | None, values: Tensor) -> Tensor:
    """Return the old weights, and the present ones where a layer did not exist yet."""
    if anchor is None:
        return values
    padded = values.clone()
    padded[: anchor.shape[0], : anchor.shape[1]] = anchor
    return padded

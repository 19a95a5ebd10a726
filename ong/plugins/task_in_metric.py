"""One task's training in a metric: which layers are held in its eigenbasis, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ong.curvature import Block, Metric
from ong.plugins.eigenbasis import Eigenbasis
from ong.plugins.first_layer import FirstLayer
from ong.plugins.preconditioning import Preconditioner

__all__ = ["TaskInMetric"]


class TaskInMetric:
    """Training in a metric M, in its eigenbasis where that is exact.

    Attributes:
        metric: M; None as long as nothing is known, so that updates are gradients as they are.
        reader: the layer that reads the batch's inputs, see :func:`ong.plugins.inputs.reader_of_inputs`.
        plain_because: why weights stay in the original coordinates, None where they do not.
    """

    def __init__(self, blocks: Mapping[str, Block], reader: str | None, plain_because: str | None) -> None:
        """Start without a metric."""
        self.reader, self.plain_because = reader, plain_because
        self.metric: Metric | None = None
        self._blocks = blocks
        self._rotation: Eigenbasis | None = None
        self._preconditioner: Preconditioner | None = None

    def turn_to(self, metric: Metric, strategy: Any) -> None:
        """Take a metric; a further one must have the same U_A of the reader, where inputs were worked out."""
        self.metric, self._preconditioner = metric, None
        if self._rotation is not None:
            self._rotation.turn_to(metric)
        elif self.plain_because is None:
            rotation = Eigenbasis(strategy, self._blocks, metric, self.reader)
            if rotation.agrees(strategy):
                self._rotation = rotation
            else:
                rotation.close()
                self.plain_because = "the model's code reads the weights of its layers itself"

    @property
    def held(self) -> frozenset[str]:
        """The blocks that train in the eigenbasis."""
        return self._rotation.names if self._rotation is not None else frozenset()

    @property
    def first(self) -> FirstLayer | None:
        """The layer among them that reads the batch's inputs."""
        return self._rotation.first if self._rotation is not None else None

    def enter(self, *, gradient: bool = False) -> None:
        """Rotate weights in, and the gradient where it is still wanted; nothing where they are rotated."""
        if self._rotation is not None:
            self._rotation.enter(gradient=gradient)

    def leave(self) -> None:
        """Put the original weights back, until :meth:`enter`."""
        if self._rotation is not None:
            self._rotation.leave()

    def close(self) -> None:
        """Put the original weights back for good."""
        if self._rotation is not None:
            self._rotation.close()
        self._rotation = self._preconditioner = None

    def precondition(self) -> None:
        """Replace the gradients by M⁻¹g."""
        if self._preconditioner is None:
            assert self.metric is not None
            self._preconditioner = Preconditioner(self._blocks, self.metric, self.held)
        self._preconditioner()

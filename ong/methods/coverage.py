"""How a method would cover a model: what of each layer is kept, in which form, and in how many bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ong.curvature import PROBED, Batch, Block, Forward, cover, evaluating, logits_of, select
from ong.methods.room import Shapes, readable, shapes_of
from ong.projection import FactoredRows, LookupRows, PatchRows, Rows

__all__ = ["Coverage", "Covered", "coverage"]

_HEAD = ("block", "parameters", "gradient of an example", "bytes", "Fisher", "bytes")


@dataclass(frozen=True)
class Covered:
    """One block of a model: a layer, one matrix of a layer, or a parameter that is no layer's.

    Attributes:
        name: the layer's or parameter's path in the model.
        parameters: trainable numbers in it.
        gradient: the form in which an example's gradient is kept; empty where none of the examples reaches the block.
        direction_bytes: of one direction, unpacked.
        fisher: ``"EKFAC"`` or ``"diagonal"``.
        fisher_bytes: of the Fisher that is kept.
    """

    name: str
    parameters: int
    gradient: str
    direction_bytes: int
    fisher: str
    fisher_bytes: int


@dataclass(frozen=True, repr=False)
class Coverage:
    """What :func:`coverage` found; prints as a table.

    Attributes:
        blocks: those of the model, in its order.
        trainable: trainable numbers of the model.
        unreached: the paths of trainable parameters that the outputs do not depend on.
    """

    blocks: tuple[Covered, ...]
    trainable: int
    unreached: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of the trainable parameters that some block holds."""
        return sum(block.parameters for block in self.blocks) / self.trainable

    @property
    def direction_bytes(self) -> int:
        """Bytes of one direction: one stored gradient of an output, unpacked."""
        return sum(block.direction_bytes for block in self.blocks)

    @property
    def fisher_bytes(self) -> int:
        """Bytes of the Fisher."""
        return sum(block.fisher_bytes for block in self.blocks)

    def __repr__(self) -> str:
        rows = [
            (b.name, b.parameters, b.gradient or "none", b.direction_bytes, b.fisher, b.fisher_bytes)
            for b in self.blocks
        ]
        total = sum(block.parameters for block in self.blocks)
        rows.append(("total", total, "", self.direction_bytes, "", self.fisher_bytes))
        lines = [_HEAD, *((a, f"{b:,}", c, readable(d), e, readable(f)) for a, b, c, d, e, f in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        numbers = (1, 3, 5)
        table = "\n".join(
            "  ".join(
                cell.rjust(w) if k in numbers else cell.ljust(w)
                for k, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        end = f"{self.share:.0%} of {self.trainable:,} trainable parameters are covered"
        if self.unreached:
            end += f"; the outputs do not depend on {', '.join(self.unreached)}"
        return f"{table}\n{end}"


def coverage(model: nn.Module, batch: Batch, *, logits: Forward | None = None, rank: int | None = 100) -> Coverage:
    """Return how a method would cover a model, from a few forward and backward passes; nothing is trained.

    >>> import torch, ong
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 50), torch.nn.PReLU(), torch.nn.Linear(50, 5))
    >>> ong.coverage(model, torch.randn(8, 20))
    block  parameters  gradient of an example      bytes  Fisher     bytes
    0           1,050  factors                 284 bytes  EKFAC    16.5 kB
    1               1  matrix                    4 bytes  EKFAC   28 bytes
    2             255  factors                 224 bytes  EKFAC    11.8 kB
    total       1,306                          512 bytes           28.3 kB
    100% of 1,306 trainable parameters are covered

    A direction is a stored gradient of an output. Methods that store directions keep so many bytes of each, methods
    with a metric one Fisher (:class:`ong.EKFAC`). What the first layer's inputs take is less in ``memory_bytes``, which
    counts them packed. While a task ends more is needed: the estimate before training, in ``begin_task``, counts it.

    Args:
        model: the network, on any device; trainable are the parameters with ``requires_grad``.
        batch: a few examples as a loader yields them; eight are looked at.
        logits: from a batch to outputs ``[N, C]``, as for ``attach``, where ``model(x)`` (or ``model(**inputs)``) are
            not these.
        rank: of the Fisher, as the methods take it.

    Raises:
        UnsupportedLayerError: the output for an example depends on the other examples of its batch, in eval mode.
        NotFiniteError: weights or outputs that are not finite.
        UserError: outputs that are not ``[N, C]``.
    """
    run = logits if logits is not None else (lambda batch: logits_of(model, batch))
    batch = select(batch, slice(0, PROBED))
    blocks = cover(model, run, batch)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with evaluating(model):
        rows = shapes_of(blocks, run, batch).rows
        reached = torch.autograd.grad(run(batch).sum(), list(trainable.values()), allow_unused=True)
    unreached = [name for name, gradient in zip(trainable, reached, strict=True) if gradient is None]
    return Coverage(
        tuple(_covered(block, rows.get(name), rank) for name, block in blocks.items()),
        sum(p.numel() for p in trainable.values()),
        tuple(unreached),
    )


def _covered(block: Block, rows: Rows | None, rank: int | None) -> Covered:
    height, width = block.shape
    return Covered(
        block.name,
        height * width,
        "" if rows is None else _form(block, rows),
        0 if rows is None else rows.bytes // len(rows),
        "diagonal" if block.is_diagonal else "EKFAC",
        Shapes({block.name: block}, {}).ekfac(rank),
    )


def _form(block: Block, rows: Rows) -> str:
    """Return in words how an example's gradient is kept."""
    if isinstance(rows, LookupRows):
        return f"{rows.indices.shape[1]} rows"
    if isinstance(rows, PatchRows):
        return f"images, {rows.positions} positions"
    if isinstance(rows, FactoredRows):
        return "factors" if rows.positions == 1 else f"factors, {rows.positions} positions"
    return "matrix, by autograd" if block.module is None or block.alone else "matrix"

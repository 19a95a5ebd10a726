"""Whether what a method will take fits into memory: worked out from shapes before training starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil  # type: ignore[import-untyped]
import torch

from ong.curvature import (
    MOST_FACTORS,
    Batch,
    Block,
    Forward,
    factor_numbers,
    gradients_of_few,
    is_wide,
    sketch_width,
)
from ong.errors import UserError
from ong.projection import Rows, input_shapes, rows_of

__all__ = [
    "Needs",
    "Shapes",
    "available_bytes",
    "bytes_of",
    "check_room",
    "gram_bytes",
    "readable",
    "shapes_of",
    "widest_inputs",
]

_GRAM = 3 * 8  # bytes an entry: the Gram, its eigenvectors and its inverse, in float64
_EIGEN = 4  # float64 matrices of an eigenproblem's size while it is solved
_STEP = 3  # vectors over the parameters that a step works with: gradient, update, one between them


@dataclass(frozen=True)
class Needs:
    """What a method will take beside the model, in bytes.

    Attributes:
        kept: after all expected tasks.
        training: the most on top of that while a task is in training.
        ending: the most on top of that while a task ends.
        reason: what takes it, in words.
    """

    kept: int
    training: int
    ending: int = 0
    reason: str = ""

    def plus(self, *, kept: int = 0, training: int = 0, ending: int = 0, reason: str = "") -> Needs:
        """Return these needs and further ones."""
        return Needs(self.kept + kept, self.training + training, self.ending + ending, self.reason + reason)

    @property
    def peak(self) -> int:
        """The most at any time."""
        return self.kept + max(self.training, self.ending)


@dataclass(frozen=True)
class Shapes:
    """A model's blocks and the positions of each, which say what is kept of them.

    Attributes:
        blocks: the model's.
        positions: T of each in the gradient of an example, 0 where none reaches it.
        tasks: how many are to come.
        limits: options by name that are not to be taken larger than this.
        rows: the gradient of an output as it would be kept, of each block that an example reached.
        outputs: C.
    """

    blocks: Mapping[str, Block]
    positions: Mapping[str, int]
    tasks: int = 1
    limits: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, Rows] = field(default_factory=dict)
    outputs: int = 1

    def limited(self, option: str, value: int | None, most: int) -> int:
        """Return an option's value, ``most`` where it is None, within the limits."""
        return min(most if value is None else value, self.limits.get(option, most))

    @property
    def size(self) -> int:
        """Bytes of a number of the model's."""
        return max(map(_size, self.blocks.values()))

    @property
    def parameters(self) -> int:
        """Bytes of a vector over the parameters."""
        return sum(rows * columns * _size(block) for block in self.blocks.values() for rows, columns in [block.shape])

    @property
    def steps(self) -> int:
        """Bytes of the vectors that a step works with."""
        return _STEP * self.parameters

    @property
    def comparison(self) -> int:
        """Bytes worked with as a task begins and gradients are compared with autograd's (:func:`ong.curvature.cover`).

        All of autograd's, and of a block at a time both; those of the last step are there still.
        """
        return 2 * self.parameters + 2 * max(_size(block) * math.prod(block.shape) for block in self.blocks.values())

    def ekfac(self, rank: int | None) -> int:
        """Bytes of one EKFAC that is kept (:class:`ong.curvature.EigenBlock`)."""
        total = 0
        for block in self.blocks.values():
            rows, columns = block.shape
            r = self._thin(rank, columns)
            eigen = columns * r + r + 1 + rows * rows + rows + rows * r + rows
            total += _size(block) * (rows * columns if block.is_diagonal else eigen)
        return total

    def metric(self, rank: int | None) -> int:
        """Bytes that M⁻¹ (:class:`ong.curvature.Metric`) takes beside its EKFAC."""
        total = 0
        for block in self.blocks.values():
            rows, columns = block.shape
            gain = rows * self._thin(rank, columns) + rows * rows
            total += _size(block) * (rows * columns if block.is_diagonal else gain)
        return total

    def taking(self, rank: int | None, examples: int) -> int:
        """Bytes that an EKFAC takes while it is measured, beside the one that is there.

        In float64: covariances, or their sketches, bases and eigenvalues of all layers, and the largest eigenproblem.

        Args:
            rank: the most columns of each basis.
            examples: how many, times the cotangents of each.
        """
        total = largest_problem = 0
        for block in self.blocks.values():
            rows, columns = block.shape
            if block.is_diagonal:
                total += 8 * rows * columns
                continue
            thin = self._thin(rank, columns)
            wide = rank is not None and is_wide(columns, thin)
            inputs = 2 * columns * sketch_width(thin) if wide else columns**2
            total += 8 * (inputs + rows**2 + columns * thin + rows**2 + rows * thin)
            largest_problem = max(largest_problem, 8 * _EIGEN * max(rows**2, inputs))
        return total + largest_problem + 2 * self.passing(examples)  # factors that are kept, and that pass by

    def passing(self, examples: int) -> int:
        """Bytes of the factors of so many examples that pass by, and of as many numbers that are made of them."""
        numbers = sum(factor_numbers(self.blocks, self.positions).values())
        return 2 * self.size * min(examples * numbers, max(MOST_FACTORS, numbers))

    def _thin(self, rank: int | None, columns: int) -> int:
        return min(columns, self.limited("rank", rank, columns))


def _size(block: Block) -> int:
    return max(4, block.parameters[0].element_size())


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free for new allocations on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def gram_bytes(directions: int) -> int:
    """Return the bytes of a Gram of so many directions, and of what its pseudo-inverse takes."""
    return _GRAM * directions**2


def shapes_of(blocks: Mapping[str, Block], run: Forward, batch: Batch, tasks: int = 1) -> Shapes:
    """Return shapes as the gradient of a first example tells, and of blocks that it does not reach the next that does.

    Args:
        blocks: the model's blocks.
        run: from a batch to logits ``[N, C]``; to be called in eval mode with gradients on.
        batch: one example at least.
        tasks: how many are to come.
    """
    outputs, positions, rows = 0, dict.fromkeys(blocks, 0), dict[str, Rows]()
    with input_shapes(blocks) as images:
        for width, gradient in gradients_of_few(blocks, run, batch):
            outputs = width
            for name, part in gradient.items():
                if name not in rows:
                    positions[name] = part.inputs.shape[1]
                    rows[name] = rows_of(part, blocks[name], images.get(name))
    return Shapes(blocks, positions, tasks, rows=rows, outputs=outputs)


def bytes_of(sample: Mapping[str, Rows], count: int) -> int:
    """Return the bytes that ``count`` directions take, from a few of them."""
    return sum(count * rows.bytes // len(rows) for rows in sample.values())


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to ``most`` that fits, where all below it do; 0 where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def check_room(
    name: str, needs: Callable[[Shapes], Needs], shapes: Shapes, options: Mapping[str, int], available: int
) -> None:
    """Stop where what a method needs is not available, with the numbers and the settings that would fit.

    Args:
        name: the method's.
        needs: from shapes to what it takes.
        shapes: the model's.
        options: those whose lower values take less, and the largest value of each that counts.
        available: bytes of free memory.

    Raises:
        UserError: it needs more.
    """
    found = needs(shapes)
    if found.peak <= available:
        return
    settings = []
    for option, most in options.items():

        def fits(value: int, option: str = option) -> bool:
            return needs(replace(shapes, limits={option: value})).peak <= available

        if value := _largest(most, fits):
            settings.append(f"{option}={value}")
    remedy = f"pass {' or '.join(settings)}" if settings else "train fewer parameters, or use another method"
    raise UserError(
        f"{name}: what {shapes.tasks} tasks leave takes {readable(found.kept)}{found.reason}, and up to "
        f"{readable(found.peak)} of memory are needed beside the model; {readable(available)} are available: {remedy}"
    )


def widest_inputs(widths: Sequence[int]) -> str:
    """Return the reason of a method that keeps matrices of inputs."""
    return f" (the widest layer has {max(widths)} inputs)"


def readable(count: float) -> str:
    """Return bytes with a unit and three significant digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"

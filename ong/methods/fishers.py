"""Fishers as methods take them: of a task's examples, by one set of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ong.curvature import EKFAC, Batch, Block, FisherType, Vector, check_fisher, diagonal_fisher
from ong.errors import UserError
from ong.methods.data import Examples
from ong.methods.room import Shapes

if TYPE_CHECKING:
    from ong.methods.base import Method

__all__ = ["FisherOptions", "check_damping", "check_positive"]


def check_positive(**counts: int) -> None:
    """Raise :class:`UserError` for a number below 1."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} must be at least 1, got {count}")


def check_damping(damping: float) -> float:
    """Return a damping λ > 0, :class:`UserError` for any other number."""
    if not damping > 0:
        raise UserError(f"damping must be positive, got {damping}")
    return damping


@dataclass(frozen=True)
class FisherOptions:
    """How a Fisher is taken; the same defaults in every method, so that λ means the same in all.

    Attributes:
        fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a λ about 100 times the others'.
        examples: training examples of a task that it is taken from.
        samples: random draws an example for the random types.
        rank: leading columns of each layer's inputs that keep eigenvalues of their own; None keeps all.
    """

    fisher: FisherType
    examples: int
    samples: int
    rank: int | None

    def __post_init__(self) -> None:
        check_fisher(self.fisher)
        check_positive(examples_per_task=self.examples, samples=self.samples)
        if self.rank is not None:
            check_positive(rank=self.rank)

    def taking(self, shapes: Shapes, *, option: str = "examples_per_task") -> int:
        """Return the bytes that a Fisher takes while it is measured, beside the one that is there.

        Args:
            shapes: the model's.
            option: the method's name of :attr:`examples`.
        """
        sets = 1000 if self.fisher == "exact" else self.samples  # as many as outputs, few models have more
        return shapes.taking(self.rank, sets * shapes.limited(option, self.examples, self.examples))

    def sizes(self, blocks: Mapping[str, Block], *, option: str = "examples_per_task") -> dict[str, int]:
        """Return the options that memory depends on, and the largest value of each that counts."""
        widest = max(block.shape[1] for block in blocks.values())
        return {"rank": widest if self.rank is None else self.rank, option: self.examples}

    def _arguments(self, method: Method, examples: Examples) -> dict[str, Any]:
        return {
            "fisher": self.fisher,
            "likelihood": method.likelihood(examples, self.fisher),
            "samples": self.samples,
            "generator": method._device_generator(),
            "forward": method.forward,
            "blocks": method.blocks,
        }

    def empty(self) -> EKFAC:
        """Return F = 0."""
        return EKFAC(self.rank)

    def add_to(self, ekfac: EKFAC, method: Method, examples: Examples, *, decay: float = 1.0) -> EKFAC:
        """Add the Fisher of a task's examples at the present weights, and return the sum."""
        batches = method._draw(examples, self.examples)
        ekfac.add(method.model, batches, decay=decay, **self._arguments(method, examples))
        return ekfac

    def of_batches(self, method: Method, examples: Examples, batches: Sequence[Batch]) -> EKFAC:
        """Return the Fisher of batches that are given."""
        ekfac = self.empty()
        ekfac.add(method.model, batches, **self._arguments(method, examples))
        return ekfac

    def diagonal(self, method: Method, examples: Examples) -> Vector:
        """Return the diagonal of the Fisher of a task's examples."""
        batches = method._draw(examples, self.examples)
        return diagonal_fisher(method.model, batches, **self._arguments(method, examples))

"""The Fisher of new data on top of an old one: first the bases turn, then the new eigenvalues are measured in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ong.curvature.batches import Batch, batch_size
from ong.curvature.covariances import covariances
from ong.curvature.diagonal import DiagonalBlock
from ong.curvature.eigenblock import EigenBlock
from ong.curvature.factors import Factors
from ong.curvature.squares import gradient_squares, rotated_squares

__all__ = ["Merging", "among", "first_of", "seed_of", "smallest"]


class Merging:
    """``decay`` · F of earlier data and the mean over new examples, block by block.

    Attributes:
        blocks: what has been merged so far, float64 where the device has it.
    """

    def __init__(
        self,
        before: Callable[[str], EigenBlock | DiagonalBlock],
        rank: int | None,
        decay: float,
        examples: int,
        seed: int,
    ) -> None:
        """Start with nothing merged.

        Args:
            before: F of a block before, by its name.
            rank: the most columns of each U_A that are kept; None keeps all.
            decay: factor on what was there before.
            examples: N of the new data.
            seed: of the random vectors that wide layers' covariances are sketched with.
        """
        self._before, self._rank, self._decay, self._examples, self._seed = before, rank, decay, examples, seed
        self._bases: dict[str, tuple[Tensor, Tensor]] = {}  # in the factors' dtype
        self.blocks: dict[str, EigenBlock | DiagonalBlock] = {}

    def turn(self, factors: Iterable[dict[str, Factors]], examples: int) -> None:
        """Move blocks to the bases of what was before and the factors of so many examples, all or some of the new."""
        found = covariances(factors, examples, rank=self._rank, seed=self._seed)
        for name in list(found):
            old = self._before(name)
            assert isinstance(old, EigenBlock)
            self.blocks[name] = old.moved(found.pop(name), rank=self._rank, decay=self._decay)

    def measure(self, parts: Mapping[str, Factors]) -> None:
        """Add the eigenvalues of some of the new examples."""
        for name, part in parts.items():
            known = self.blocks.get(name)
            if known is None:
                known = self._before(name).scaled(self._decay)
            if isinstance(known, DiagonalBlock):
                self.blocks[name] = known.plus(gradient_squares(part) / self._examples)
                continue
            if name not in self._bases:
                self._bases[name] = (known.inputs_basis.to(part.inputs), known.outputs_basis.to(part.inputs))
            squares, totals = rotated_squares(part, *self._bases[name])
            self.blocks[name] = known.plus(squares / self._examples, totals / self._examples)


def seed_of(generator: torch.Generator) -> int:
    """Return a seed that a generator's state tells; the generator stays as it is."""
    other = torch.Generator(generator.device)
    other.set_state(generator.get_state())
    return int(torch.randint(2**62, (), generator=other, device=generator.device))


def first_of(pieces: Sequence[Batch], examples: int) -> list[Batch]:
    """Return the first pieces, until they have so many examples."""
    first: list[Batch] = []
    for piece in pieces:
        if sum(map(batch_size, first)) < examples:
            first.append(piece)
    return first


def smallest(numbers: Mapping[str, int], room: int) -> set[str]:
    """Return as many blocks as there is room for, those with the fewest numbers first."""
    found = set()
    for name in sorted(numbers, key=lambda name: numbers[name]):
        room -= numbers[name]
        if room >= 0:
            found.add(name)
    return found


def among(parts: Mapping[str, Factors], names: Collection[str]) -> dict[str, Factors]:
    """Return the factors of some blocks."""
    return {name: part for name, part in parts.items() if name in names}

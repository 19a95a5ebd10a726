"""The eigenvalue-corrected Kronecker-factored Fisher (George et al., arXiv 1806.03884), and its sum over tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature.batches import Batch, Forward, batch_size, logits_of, select, targets_of
from ong.curvature.blocks import Block, Vector, evaluating
from ong.curvature.cover import PROBED, cover
from ong.curvature.diagonal import DiagonalBlock
from ong.curvature.eigenblock import EigenBlock
from ong.curvature.examples import example_gradients
from ong.curvature.factors import Factors
from ong.curvature.fisher import FisherType, check_fisher, cotangents
from ong.curvature.likelihoods import Likelihood
from ong.curvature.merging import Merging, among, first_of, seed_of, smallest
from ong.curvature.positions import factor_numbers, in_pieces, positions_of
from ong.curvature.variance.planning import draws_for_relative_error
from ong.errors import NotFiniteError, UserError
from ong.waiting import waiting

__all__ = ["EKFAC", "MOST_SAMPLES"]

MOST_SAMPLES = 10_000
"""The most draws an example that a wanted relative error may take."""
_PLANNING_EXAMPLES = 64
_KEPT = 2**26  # numbers in factors that are kept
_BASES = 256  # examples that a layer's bases are from, where its factors of all are too many to keep


@dataclass
class EKFAC:
    """F ≈ ⊕_blocks (U_S ⊗ U_A) diag(Λ) (U_S ⊗ U_A)ᵀ, a sum over all the data that was added.

    With the layers' inputs a and pulled-back cotangents δ, A = E[aaᵀ] = U_A D_A U_Aᵀ, S = E[δδᵀ] = U_S D_S U_Sᵀ and

        Λ = E[ (U_Sᵀ G U_A)^{∘2} ],   G = Σ_t δ_t a_tᵀ of one example,

    the Frobenius-optimal diagonal in that basis. Each call of :meth:`add` adds the mean over its examples, as a sum
    of Fishers over tasks wants it. With a ``rank`` only the leading columns of U_A keep eigenvalues of their own, see
    :class:`EigenBlock`; of wide layers these come from a sketch of A, which is never formed
    (:class:`ong.curvature.sketch.Sketch`). Parameters of their own and embeddings have the diagonal of F in its place.
    Eigenvectors are found in float64 and everything is kept in the parameters' dtype, at least float32.

    Attributes:
        rank: the most columns of U_A that are kept; None keeps all.
        blocks: the factors of each block by its name; empty is the zero Fisher.
        samples_used: draws an example of the last data added; 0 for the types that draw nothing.
    """

    rank: int | None = None
    blocks: dict[str, EigenBlock | DiagonalBlock] = field(default_factory=dict)
    samples_used: int = 0

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        fisher: FisherType = "rademacher",
        likelihood: Likelihood = "categorical",
        samples: int = 1,
        relative_error: float | None = None,
        rank: int | None = None,
        generator: torch.Generator | None = None,
        forward: Forward | None = None,
        blocks: Mapping[str, Block] | None = None,
    ) -> EKFAC:
        """Return the EKFAC of one data set; the arguments are :meth:`add`'s, and ``rank``."""
        ekfac = cls(rank)
        ekfac.add(
            model,
            batches,
            fisher=fisher,
            likelihood=likelihood,
            samples=samples,
            relative_error=relative_error,
            generator=generator,
            forward=forward,
            blocks=blocks,
        )
        return ekfac

    def add(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        fisher: FisherType = "rademacher",
        likelihood: Likelihood = "categorical",
        samples: int = 1,
        relative_error: float | None = None,
        generator: torch.Generator | None = None,
        forward: Forward | None = None,
        blocks: Mapping[str, Block] | None = None,
        decay: float = 1.0,
    ) -> None:
        """Add the Fisher of a data set at the model's present weights, the model in eval mode.

        A ← decay·A + A_new and S likewise give new bases U'; what was there before moves without its data,
        Λ' = decay · diag(U'ᵀ F U'), which keeps the trace (:meth:`EigenBlock.moved`); the new data's Λ is measured in
        U' and added.

        Args:
            model: the network.
            batches: the data. A layer's bases are from all of it where its factors can be kept meanwhile, else from the
                first 256 examples, which then go through the network twice, with the same random cotangents.
            fisher: see :func:`ong.curvature.cotangents`.
            likelihood: of the targets given the outputs.
            samples: draws an example of the random Fisher types.
            relative_error: choose ``samples`` so that ‖diag F̂ − diag F‖/‖diag F‖ of every layer has this
                root-mean-square, in closed form on the first examples
                (:func:`ong.curvature.variance.draws_for_relative_error`); ``samples_used`` says how many that were.
            generator: their randomness, on the model's device; one seeded with 0 by default.
            forward: maps a batch to logits ``[N, C]``; :func:`ong.curvature.batches.logits_of` by default.
            blocks: the model's blocks, where the caller has them already.
            decay: factor on what was there before; 0 puts the new data in its place.

        Raises:
            ValueError: no examples.
            UnsupportedLayerError: without ``blocks``, a model that :func:`ong.curvature.cover` refuses.
            NotFiniteError: a factor that is not finite.
            UserError: a relative error that takes more than ``MOST_SAMPLES`` draws, that is given along with
                ``samples`` or ``forward``, or for the empirical Fisher.
        """
        check_fisher(fisher)
        batches = [batch for batch in batches if batch_size(batch)]
        examples = sum(batch_size(batch) for batch in batches)
        if not examples:
            raise ValueError("EKFAC needs at least one example")
        if relative_error is not None:
            if samples != 1 or forward is not None:
                raise UserError("relative_error chooses samples, for a model of the inputs alone: give neither of them")
            samples = max(1, _samples_for(relative_error, model, batches, fisher, likelihood, examples))
        run = forward if forward is not None else (lambda batch: logits_of(model, batch))
        if blocks is None:
            blocks = cover(model, run, select(batches[0], slice(0, PROBED)))
        if generator is None:
            generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
        state, seed = generator.get_state(), seed_of(generator)

        def sets(logits: Tensor, batch: Batch) -> Iterator[Tensor]:
            targets = targets_of(batch)
            return cotangents(
                logits, fisher, likelihood=likelihood, targets=targets, samples=samples, generator=generator
            )

        def factors(pieces: Iterable[Batch]) -> Iterator[dict[str, Factors]]:
            generator.set_state(state)
            for piece in pieces:
                yield from example_gradients(blocks, run, piece, sets)

        with evaluating(model):
            one = select(batches[0], slice(0, 1))
            numbers = factor_numbers(blocks, positions_of(blocks, run, batches[0]))
            drawn = sum(1 for _ in sets(run(one).detach(), one))  # not under no_grad: see cover
            pieces = in_pieces(batches, numbers)
            merging = Merging(lambda name: self.block_like(name, blocks[name]), self.rank, decay, examples, seed)
            eigen = {name: drawn * examples * each for name, each in numbers.items() if not blocks[name].is_diagonal}
            few = smallest(eigen, _KEPT)
            if many := eigen.keys() - few:
                first = first_of(pieces, _BASES)
                parts_of_first = waiting(factors(first), "  covariances", drawn * len(first))
                merging.turn((among(parts, many) for parts in parts_of_first), sum(map(batch_size, first)))
            kept: list[dict[str, Factors]] = []
            for parts in waiting(factors(pieces), "  curvature", drawn * len(pieces)):
                kept.append(among(parts, few))
                merging.measure(among(parts, blocks.keys() - few))
            merging.turn(kept, examples)
            for parts in kept:
                merging.measure(parts)
        for name, block in merging.blocks.items():
            if not block.eigenvalues.isfinite().all():
                raise NotFiniteError(f"the factors of layer '{name}' are not finite: weights or inputs have diverged")
        moved = {name: block.to(blocks[name].values()) for name, block in merging.blocks.items()}
        for name, former in self.blocks.items():  # a layer that took no part in this data, such as another task's head
            if name not in moved and decay != 1.0:
                moved[name] = former.scaled(decay)
        self.blocks |= moved
        self.samples_used = samples if fisher in ("mc", "rademacher", "logit") else 0

    def block_like(self, name: str, block: Block) -> EigenBlock | DiagonalBlock:
        """Return F of a model's block, 0 where nothing is known, in the shape, dtype and device of its weights.

        Raises:
            UserError: a block whose parameters were fewer before.
        """
        like, known = block.values(), self.blocks.get(name)
        if known is None:
            zero = DiagonalBlock(like.new_zeros(block.shape)) if block.is_diagonal else EigenBlock.zero(*block.shape)
            return zero.to(like)
        try:
            return known.to(like).grown(*block.shape)
        except ValueError:
            raise UserError(
                f"layer '{name}' had {known.shape[0]} × {known.shape[1]} trainable parameters in an earlier task "
                f"and has {block.shape[0]} × {block.shape[1]} now; freeze a layer as a whole"
            ) from None

    def apply(self, vector: Mapping[str, Tensor], *, power: float = -1.0, damping: float = 0.0) -> Vector:
        """Return (F + λ)^q v block by block, U_S [ (Λ+λ)^q ∘ (U_Sᵀ V U_A) ] U_Aᵀ.

        Args:
            vector: v, a matrix a block; a block this EKFAC has never seen has F = 0, as have rows it has gained, and
                columns at its end.
            power: q; −1 is the natural gradient, ½ and −½ whiten.
            damping: λ ≥ 0, Tikhonov's, on Λ.

        Raises:
            ValueError: a negative damping, or a negative power of a singular F without damping.
        """
        if damping < 0:
            raise ValueError(f"damping must not be negative, got {damping}")
        result: Vector = {}
        for name, matrix in vector.items():
            known = self.blocks.get(name, EigenBlock.zero(*matrix.shape)).to(matrix).grown(*matrix.shape)
            values = [known.eigenvalues.flatten()]
            if isinstance(known, EigenBlock) and known.others:
                values.append(known.rest)
            damped = torch.cat(values) + damping
            rounding = torch.finfo(damped.dtype).eps * float(damped.max())
            if power < 0 and not bool((damped > (0.0 if damping else rounding)).all()):
                raise ValueError(f"F of layer '{name}' is singular: a negative power needs damping > 0")
            result[name] = known.operator(lambda eigenvalues: (eigenvalues + damping).pow(power))(matrix)
        return result

    def scaled(self, factor: float) -> EKFAC:
        """Return ``factor`` · F."""
        blocks = {name: block.scaled(factor) for name, block in self.blocks.items()}
        return EKFAC(self.rank, blocks, self.samples_used)

    def trace(self) -> float:
        """Return the trace of F, exact for the data that was added (no Kronecker error in it)."""
        return sum(block.trace() for block in self.blocks.values())

    @property
    def shared(self) -> float:
        """The share of the trace in columns with one eigenvalue a row, all that a ``rank`` does not tell apart."""
        thin = [block for block in self.blocks.values() if isinstance(block, EigenBlock)]
        total = self.trace()
        return sum(block.others * float(block.rest.sum()) for block in thin) / total if total else 0.0

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        tensors = [part for block in self.blocks.values() for part in block.state_dict().values()]
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the tensors of each block."""
        return {name: block.state_dict() for name, block in self.blocks.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.blocks = {
            name: EigenBlock(**values) if "outputs_basis" in values else DiagonalBlock(**values)
            for name, values in state.items()
        }


def _samples_for(
    relative_error: float,
    model: nn.Module,
    batches: Sequence[Batch],
    fisher: FisherType,
    likelihood: Likelihood,
    examples: int,
) -> int:
    """Return the draws an example that a relative error takes, judged on the first examples."""
    first = batches[0][0][:_PLANNING_EXAMPLES]
    samples = draws_for_relative_error(model, first, relative_error, fisher, family=likelihood, examples=examples)
    if samples > MOST_SAMPLES:
        raise UserError(
            f"a relative error of {relative_error:g} takes {samples} draws of '{fisher}' an example (limit "
            f"{MOST_SAMPLES}); fisher='exact' has none, for one backward pass an output"
        )
    return samples

"""The eigenvalue-corrected Kronecker-factored Fisher (George et al., arXiv 1806.03884), and its sum over tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature.blocks import Block, Vector, evaluating
from ong.curvature.eigenblock import EigenBlock, covariances, rotated_squares
from ong.curvature.factors import Factors, record
from ong.curvature.fisher import FisherType, check_fisher, cotangents
from ong.curvature.own_blocks import PROBED, own_blocks
from ong.curvature.variance.planning import draws_for_relative_error
from ong.errors import NotFiniteError, UserError

__all__ = ["EKFAC", "MOST_SAMPLES", "Batch", "Forward"]

Batch = Sequence[Tensor]
"""Inputs, targets and whatever else ``forward`` wants, examples first in each."""
Forward = Callable[[Batch], Tensor]
MOST_SAMPLES = 10_000
"""The most draws an example that a wanted relative error may take."""
_PLANNING_EXAMPLES = 64
_KEPT = 2**26  # numbers in factors that are kept rather than computed twice


@dataclass
class EKFAC:
    """F ≈ ⊕_blocks (U_S ⊗ U_A) diag(Λ) (U_S ⊗ U_A)ᵀ, a sum over all the data that was added.

    With the layers' inputs a and pulled-back cotangents δ, A = E[aaᵀ] = U_A D_A U_Aᵀ, S = E[δδᵀ] = U_S D_S U_Sᵀ and

        Λ = E[ (U_Sᵀ G U_A)^{∘2} ],   G = Σ_t δ_t a_tᵀ of one example,

    the Frobenius-optimal diagonal in that basis. Each call of :meth:`add` adds the mean over its examples, as a sum
    of Fishers over tasks wants it. Everything is kept in float64.

    Attributes:
        blocks: the factors of each block by its name; empty is the zero Fisher.
        samples_used: draws an example of the last data added; 0 for the types that draw nothing.
    """

    blocks: dict[str, EigenBlock] = field(default_factory=dict)
    samples_used: int = 0

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        fisher: FisherType = "rademacher",
        samples: int = 1,
        relative_error: float | None = None,
        generator: torch.Generator | None = None,
        forward: Forward | None = None,
        blocks: Mapping[str, Block] | None = None,
    ) -> EKFAC:
        """Return the EKFAC of one data set; the arguments are :meth:`add`'s."""
        ekfac = cls()
        ekfac.add(
            model,
            batches,
            fisher=fisher,
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
        samples: int = 1,
        relative_error: float | None = None,
        generator: torch.Generator | None = None,
        forward: Forward | None = None,
        blocks: Mapping[str, Block] | None = None,
        decay: float = 1.0,
        keep_inputs: Collection[str] = (),
    ) -> None:
        """Add the Fisher of a data set at the model's present weights, the model in eval mode.

        A ← decay·A + A_new and S likewise give new bases U'; what was there before moves without its data,

            Λ' = decay · (U'_SᵀU_S)^{∘2} Λ ((U'_AᵀU_A)^{∘2})ᵀ,

        which is diag(U'ᵀ F U') exactly and keeps the trace; the new data's Λ is measured in U' and added.

        Args:
            model: the network.
            batches: the data; where the factors of all of it are too many to keep, it is gone through twice (bases,
                then eigenvalues) with the same random cotangents.
            fisher: see :func:`ong.curvature.fisher.cotangents`.
            samples: draws an example of the random Fisher types.
            relative_error: choose ``samples`` so that ‖diag F̂ − diag F‖/‖diag F‖ of every layer has this
                root-mean-square, in closed form on the first examples
                (:func:`ong.curvature.variance.draws_for_relative_error`); ``samples_used`` says how many that were.
            generator: their randomness, on the model's device; one seeded with 0 by default.
            forward: maps a batch to logits ``[N, C]``; ``model(batch[0])`` by default.
            blocks: the model's blocks, where the caller has them already.
            decay: factor on what was there before; 0 puts the new data in its place.
            keep_inputs: blocks whose A and U_A stay as they are, which saves most of the work for a wide layer: right
                where inputs do not depend on the weights, as those of the first layer, whose A may come from more data
                (:meth:`EigenBlock.of_inputs`).

        Raises:
            ValueError: no examples.
            UnsupportedLayerError: without ``blocks``, a layer that :func:`ong.curvature.own_blocks` refuses.
            NotFiniteError: a factor that is not finite.
            UserError: a relative error that takes more than ``MOST_SAMPLES`` draws, that is given along with
                ``samples`` or ``forward``, or for the empirical Fisher.
        """
        check_fisher(fisher)
        batches = [batch for batch in batches if len(batch[0])]
        examples = sum(len(batch[0]) for batch in batches)
        if not examples:
            raise ValueError("EKFAC needs at least one example")
        if relative_error is not None:
            if samples != 1 or forward is not None:
                raise UserError("relative_error chooses samples, for a model of the inputs alone: give neither of them")
            samples = max(1, _samples_for(relative_error, model, batches, fisher, examples))
        run = forward if forward is not None else (lambda batch: model(batch[0]))
        if blocks is None:
            blocks = own_blocks(model, lambda: run([column[:PROBED] for column in batches[0]]))
        if generator is None:
            generator = torch.Generator(batches[0][0].device).manual_seed(0)
        state = generator.get_state()

        kept: list[dict[str, Factors]] | None = []

        def factors() -> Iterator[dict[str, Factors]]:
            generator.set_state(state)
            for batch in batches:
                with record(blocks) as tape:
                    logits = run(batch)
                targets = batch[1] if len(batch) > 1 else None
                for u in cotangents(logits, fisher, targets=targets, samples=samples, generator=generator):
                    yield tape.factors(logits, u)

        def keeping() -> Iterator[dict[str, Factors]]:
            nonlocal kept
            room = _KEPT
            for parts in factors():
                room -= sum(part.inputs.numel() + part.outputs.numel() for part in parts.values())
                if kept is not None:
                    kept = [*kept, parts] if room >= 0 else None
                yield parts

        with evaluating(model):
            moved = {}
            known = {name: block.inputs_cov for name, block in self.blocks.items() if name in keep_inputs}
            for name, added in covariances(keeping(), examples, known).items():
                rows, columns = blocks[name].shape
                old = self.blocks.get(name) or EigenBlock.zero(rows, columns, added.outputs.device)
                moved[name] = old.fitted(blocks[name]).moved(added, decay=decay, keep_inputs=name in known)
            turned: dict[str, EigenBlock] = {}  # the bases in the factors' dtype
            for parts in factors() if kept is None else kept:
                for name, part in parts.items():
                    if name not in turned:
                        turned[name] = moved[name].with_bases_like(part.inputs)
                    moved[name] = moved[name].plus(rotated_squares(part, turned[name]) / examples)
        for name, block in moved.items():
            if not block.eigenvalues.isfinite().all():
                raise NotFiniteError(f"the factors of layer '{name}' are not finite: weights or inputs have diverged")
        for name, old in self.blocks.items():  # a layer that took no part in this data, such as another task's head
            if name not in moved and decay != 1.0:
                moved[name] = replace(
                    old,
                    inputs_cov=decay * old.inputs_cov,
                    outputs_cov=decay * old.outputs_cov,
                    eigenvalues=decay * old.eigenvalues,
                )
        self.blocks |= moved
        self.samples_used = samples if fisher in ("mc", "rademacher", "logit") else 0

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
            block = self.blocks.get(name)
            if block is None:
                block = EigenBlock.zero(matrix.shape[0], matrix.shape[1], matrix.device)
            grown = block.grown(*matrix.shape)
            damped = grown.eigenvalues + damping
            rounding = torch.finfo(damped.dtype).eps * float(damped.max())
            if power < 0 and not bool((damped > (0.0 if damping else rounding)).all()):
                raise ValueError(f"F of layer '{name}' is singular: a negative power needs damping > 0")
            result[name] = grown.rotate_back(damped.pow(power).to(matrix) * grown.rotate(matrix))
        return result

    def trace(self) -> float:
        """Return the trace of F, exact for the data that was added (no Kronecker error in it)."""
        return sum(float(block.eigenvalues.sum()) for block in self.blocks.values())

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the tensors of each block."""
        return {
            name: {f.name: getattr(block, f.name) for f in fields(EigenBlock)} for name, block in self.blocks.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.blocks = {name: EigenBlock(**values) for name, values in state.items()}


def _samples_for(
    relative_error: float, model: nn.Module, batches: Sequence[Batch], fisher: FisherType, examples: int
) -> int:
    """Return the draws an example that a relative error takes, judged on the first examples."""
    first = batches[0][0][:_PLANNING_EXAMPLES]
    samples = draws_for_relative_error(model, first, relative_error, fisher, examples=examples)
    if samples > MOST_SAMPLES:
        raise UserError(
            f"a relative error of {relative_error:g} takes {samples} draws of '{fisher}' an example (limit "
            f"{MOST_SAMPLES}); fisher='exact' has none, for one backward pass an output"
        )
    return samples

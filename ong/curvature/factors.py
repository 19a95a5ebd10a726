"""Per-example gradients of any model: factors of its layers, and the gradients themselves of everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ong.curvature.batches import Batch, Forward, batch_size, select
from ong.curvature.blocks import Block, dense_gradient
from ong.curvature.layers import layer_factors

__all__ = ["Factors", "Tape", "example_gradients", "record"]

Cotangents = Callable[[Tensor, Batch], Iterable[Tensor]]
"""From logits and batch to sets of cotangents u ``[N, C]``."""


@dataclass(frozen=True)
class Factors:
    """Gradients of N examples for one block, G_n = Σ_t outputs_nt inputs_ntᵀ.

    Attributes:
        inputs: ``[N, T, columns]``, a with 1 appended for the bias.
        outputs: ``[N, T, rows]``, the back-propagated δ.
        rounding: relative, of the coarsest numbers that went into them (those of autocast's type under autocast).
    """

    inputs: Tensor
    outputs: Tensor
    rounding: float = 0.0


@dataclass
class Tape:
    """What a forward pass left: each layer's inputs, and the place of its output in the graph.

    Places in the graph (``GradientEdge``) rather than output tensors, so that an activation that works in place
    does not move them.
    """

    blocks: Mapping[str, Block]
    uses: dict[str, list[tuple[Tensor, GradientEdge]]] = field(default_factory=dict)

    def has_examples_first(self, examples: int) -> bool:
        """Return whether every layer saw all examples each time, and not some of them as an expert does."""
        return all(inputs.shape[:1] == (examples,) for calls in self.uses.values() for inputs, _ in calls)

    def factors(self, outputs: Tensor, cotangents: Tensor) -> dict[str, Factors]:
        """Pull one cotangent an example back: the gradients of Σ_n u_nᵀ h_n, example by example.

        Args:
            outputs: h, ``[N, C]``, of the recorded forward; one example where a block is no layer.
            cotangents: u, ``[N, C]``.

        Returns:
            The factors of each block that took part in the forward; a layer used k times has k times the positions.

        Raises:
            ValueError: outputs that are not ``[N, C]``, several examples for a block that is no layer, or a layer that
                saw another number of examples than N.
        """
        if outputs.ndim != 2 or cotangents.shape != outputs.shape:
            raise ValueError(
                f"outputs and cotangents must both be [examples, outputs], got {list(outputs.shape)} "
                f"and {list(cotangents.shape)}"
            )
        others = {name: block for name, block in self.blocks.items() if block.module is None}
        if others and len(outputs) != 1:
            raise ValueError(f"gradients of single parameters are taken one example at a time, got {len(outputs)}")
        wanted: list[Any] = [edge for calls in self.uses.values() for _, edge in calls]
        wanted += [block.weight for block in others.values()]
        if not wanted or not outputs.requires_grad:
            return {}
        pulled = iter(
            torch.autograd.grad(outputs, wanted, cotangents.to(outputs), retain_graph=True, allow_unused=True)
        )
        result: dict[str, Factors] = {}
        for name, calls in self.uses.items():
            gradients = [next(pulled) for _ in calls]
            parts = [
                _assemble(self.blocks[name], inputs, gradient, len(outputs))
                for (inputs, _), gradient in zip(calls, gradients, strict=True)
                if gradient is not None and inputs.shape[:1] != (0,)  # an expert that no example was sent to
            ]
            if parts:
                result[name] = _joined(parts, 1)
        for name, block in others.items():
            gradient = next(pulled)
            if gradient is not None:
                row = block.matrix([dense_gradient(gradient, block.parameters[0])])
                result[name] = Factors(row[None], row.new_ones(1, 1, 1), torch.finfo(row.dtype).eps)
        return result


def _joined(parts: Sequence[Factors], dim: int) -> Factors:
    if len(parts) == 1:
        return parts[0]
    inputs, outputs = ([getattr(part, key) for part in parts] for key in ("inputs", "outputs"))
    return Factors(torch.cat(inputs, dim), torch.cat(outputs, dim), max(part.rounding for part in parts))


def _assemble(block: Block, inputs: Tensor, cotangents: Tensor, examples: int) -> Factors:
    if inputs.ndim < 1 or len(inputs) != examples:
        raise ValueError(
            f"layer '{block.name}' saw a leading dimension of {len(inputs) if inputs.ndim else 0} for {examples} "
            "examples; per-example gradients need the examples first in every layer"
        )
    assert block.module is not None
    rounding = max(torch.finfo(t.dtype).eps for t in (inputs, cotangents) if t.is_floating_point())
    if inputs.is_floating_point():
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    parts = layer_factors(block.module, inputs, cotangents.to(torch.promote_types(cotangents.dtype, torch.float32)))
    columns = [part for part, used in zip(parts[:2], (block.weight, block.bias), strict=True) if used is not None]
    joined = torch.cat(columns, dim=2)
    return Factors(joined, parts.outputs.to(joined.dtype), rounding)


@contextmanager
def record(blocks: Mapping[str, Block]) -> Iterator[Tape]:
    """Record the forward passes made inside the ``with``; the hooks are gone after it."""
    tape = Tape(blocks)

    def keep(name: str) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if isinstance(output, Tensor) and output.requires_grad:
                if output._is_view():  # its place in the graph would be moved by an activation that works in place
                    output = output.clone()
                inputs = args[0] if args else next(iter(kwargs.values()))
                tape.uses.setdefault(name, []).append((inputs.detach(), get_gradient_edge(output)))
            return output

        return hook

    handles = [
        block.module.register_forward_hook(keep(name), with_kwargs=True)
        for name, block in blocks.items()
        if block.module is not None
    ]
    try:
        yield tape
    finally:
        for handle in handles:
            handle.remove()


def example_gradients(
    blocks: Mapping[str, Block], run: Forward, batch: Batch, cotangents: Cotangents
) -> Iterator[dict[str, Factors]]:
    """Yield, for each set of cotangents, the gradients of every example of a batch.

    One forward for the batch where all blocks are layers that see all of its examples. Other parameters get their
    gradients by autograd an example at a time, which takes a forward and a backward an example.

    Args:
        blocks: the model's blocks.
        run: from a batch to logits ``[N, C]``; to be called in eval mode with gradients on.
        batch: N examples.
        cotangents: from logits and batch to sets ``[N, C]``.
    """
    if all(block.module is not None for block in blocks.values()):
        with record(blocks) as tape:
            logits = run(batch)
        if tape.has_examples_first(len(logits)):
            for u in cotangents(logits, batch):
                yield tape.factors(logits, u)
            return
    with torch.no_grad():
        sets = list(cotangents(run(batch), batch))
    found: list[list[dict[str, Factors]]] = [[] for _ in sets]
    for n in range(batch_size(batch)):
        with record(blocks) as tape:
            logits = run(select(batch, slice(n, n + 1)))
        for parts, u in zip(found, sets, strict=True):
            parts.append(tape.factors(logits, u[n : n + 1]))
    for parts in found:
        names = {name: None for part in parts for name in part}
        yield {name: _joined(_filled([part.get(name) for part in parts]), 0) for name in names}


def _filled(parts: Sequence[Factors | None]) -> list[Factors]:
    """Put zeros where an example did not reach a block, such as an expert that it was not sent to."""
    like = next(part for part in parts if part is not None)
    most = max(part.inputs.shape[1] for part in parts if part is not None)
    filled = []
    for part in parts:
        inputs = like.inputs.new_zeros(1, most, like.inputs.shape[2])
        outputs = like.outputs.new_zeros(1, most, like.outputs.shape[2])
        if part is not None:
            inputs[:, : part.inputs.shape[1]], outputs[:, : part.outputs.shape[1]] = part.inputs, part.outputs
        filled.append(Factors(inputs, outputs, like.rounding))
    return filled

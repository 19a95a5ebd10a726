"""A recorded forward pass, and the factors of its layers' gradients that a backward pass gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ong.curvature.batches import map_batch
from ong.curvature.blocks import Block, dense_gradient, in_place_of
from ong.curvature.factors import Factors, Lookups, as_factors, as_rows, joined
from ong.curvature.layers import Call, LayerFactors, UnsupportedLayerError, factors_of_call

__all__ = ["Recorded", "Tape", "record"]


@dataclass(frozen=True)
class Recorded:
    """One call of a layer in a forward pass.

    Attributes:
        args: its arguments, detached.
        kwargs: the same by name.
        examples: how many there were.
        edge: the place of its output in the graph. Rather than the output, so that an activation that works in place
            does not move it.
        is_broadcast: whether it was called with one example, for all of which its output was repeated.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    examples: int
    edge: GradientEdge
    is_broadcast: bool = False


@dataclass
class Tape:
    """What a forward pass left of the layers that hold the blocks, and of parameters that it read as N copies."""

    blocks: Mapping[str, Block]
    calls: dict[nn.Module, list[Recorded]] = field(default_factory=dict)
    copies: dict[str, Tensor] = field(default_factory=dict)

    @property
    def broadcast(self) -> list[str]:
        """The blocks that were repeated for every example."""
        layers = {module for module, calls in self.calls.items() if any(call.is_broadcast for call in calls)}
        return [*self.copies, *(name for name, block in self.blocks.items() if block.module in layers)]

    @property
    def names(self) -> set[str]:
        """The blocks of the layers that took part."""
        return {name for name, block in self.blocks.items() if block.module in self.calls}

    def has_examples_first(self, examples: int) -> bool:
        """Return whether every layer saw all examples each time, and not some of them as an expert does."""
        return all(call.examples == examples for calls in self.calls.values() for call in calls)

    def factors(self, outputs: Tensor, cotangents: Tensor) -> dict[str, Factors]:
        """Pull one cotangent an example back: the gradients of Σ_n u_nᵀ h_n, example by example.

        Args:
            outputs: h, ``[N, C]``, of the recorded forward; one example where autograd takes a block's gradients.
            cotangents: u, ``[N, C]``.

        Returns:
            The factors of each block that took part in the forward; a layer used k times has k times the positions.
            Of one example autograd takes the gradients of all that is no layer it was sent to as one: parameters of
            their own, and experts, which are sent some of its tokens.

        Raises:
            ValueError: outputs that are not ``[N, C]``, or several examples for a block that is no layer.
            UnsupportedLayerError: a layer that saw another number of examples than N.
        """
        if outputs.ndim != 2 or cotangents.shape != outputs.shape:
            raise ValueError(
                f"outputs and cotangents must both be [examples, outputs], got {list(outputs.shape)} "
                f"and {list(cotangents.shape)}"
            )
        others = {
            n: block for n, block in self.blocks.items() if n not in self.copies and self._is_apart(block, outputs)
        }
        if others and len(outputs) != 1:
            raise ValueError(f"gradients of single parameters are taken one example at a time, got {len(outputs)}")
        weights = [*self.copies.values(), *(parameter for block in others.values() for parameter in block.parameters)]
        pulled, found = self.pulled(outputs, cotangents, weights)
        gradients, apart = iter(found), {block.module for block in others.values()}
        result: dict[str, Factors] = {}
        for module, calls in pulled.items():
            if module not in apart:
                result |= self.of_layer(module, calls, len(outputs))
        for name in self.copies:
            if (gradient := next(gradients)) is not None:
                result[name] = as_rows(gradient)
        for name, block in others.items():
            parts = [(next(gradients), parameter) for parameter in block.parameters]
            if any(gradient is not None for gradient, _ in parts):
                matrix = block.matrix([dense_gradient(gradient, parameter) for gradient, parameter in parts])
                rounding = max(_rounding(parameter) for parameter in block.parameters)
                result[name] = as_factors(matrix, rounding, looked_up=block.rows > 1 and block.is_diagonal)
        return result

    def _is_apart(self, block: Block, outputs: Tensor) -> bool:
        """Return whether autograd takes a block's gradients."""
        if block.module is None or block.alone:
            return True
        calls = self.calls.get(block.module, [])
        return len(outputs) == 1 and any(call.examples != 1 for call in calls)

    def pulled(
        self, outputs: Tensor, cotangents: Tensor, weights: Sequence[Tensor]
    ) -> tuple[dict[nn.Module, list[tuple[Recorded, Tensor]]], list[Tensor | None]]:
        """Return the calls of each layer with the cotangents of their outputs, and the gradients of some parameters."""
        wanted: list[Any] = [call.edge for calls in self.calls.values() for call in calls]
        if not (wanted or weights) or not outputs.requires_grad:
            return {}, [None] * len(weights)
        cotangents = cotangents.to(outputs)
        found = torch.autograd.grad(outputs, [*wanted, *weights], cotangents, retain_graph=True, allow_unused=True)
        gradients = iter(found)
        pulled: dict[nn.Module, list[tuple[Recorded, Tensor]]] = {}
        for module, calls in self.calls.items():
            for call, gradient in [(call, next(gradients)) for call in calls]:
                if gradient is not None and call.examples:  # none: an expert that no example was sent to
                    pulled.setdefault(module, []).append((call, gradient))
        return pulled, list(gradients)

    def of_layer(
        self, module: nn.Module, calls: Sequence[tuple[Recorded, Tensor]], examples: int
    ) -> dict[str, Factors]:
        """Return the factors of a layer's blocks.

        Raises:
            UnsupportedLayerError: a layer that saw another number of examples.
        """
        blocks = [block for block in self.blocks.values() if block.module is module]
        found = []
        for recorded, gradient in calls:
            if recorded.examples != examples:
                raise UnsupportedLayerError(
                    f"layer '{blocks[0].name}' saw a leading dimension of {recorded.examples} for {examples} examples; "
                    "per-example gradients want the examples first in every layer, or one example at a time"
                )
            args, kwargs, cotangents = map_batch(_at_least_float32, (recorded.args, recorded.kwargs, gradient))
            call = Call(tuple(args), kwargs, cotangents)
            rounding = max(_rounding(gradient), *map(_rounding, [*recorded.args, *recorded.kwargs.values()]))
            parts = factors_of_call(module, call)
            found.append([_assembled(block, parts[block.layout.weight], rounding) for block in blocks])
        return {block.name: joined([parts[i] for parts in found], 1) for i, block in enumerate(blocks) if found}


def _rounding(given: Any) -> float:
    return torch.finfo(given.dtype).eps if isinstance(given, Tensor) and given.is_floating_point() else 0.0


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def _assembled(block: Block, parts: LayerFactors, rounding: float) -> Factors:
    used = [(parts.weight_inputs, block.weight), (parts.bias_inputs, block.bias)]
    columns = [part for part, parameter in used if part is not None and parameter is not None]
    inputs = columns[0] if len(columns) == 1 else torch.cat(columns, dim=2)  # of one it would be a copy
    if not parts.outputs.is_floating_point():
        return Lookups(inputs, parts.outputs, block.rows, rounding)
    return Factors(inputs, parts.outputs.to(inputs.dtype), rounding)


@contextmanager
def record(blocks: Mapping[str, Block], examples: int = 1) -> Iterator[Tape]:
    """Record the forward passes made inside the ``with``; the hooks are gone after it.

    What is one and the same for all examples, and added to each, gets gradients of its own for each by being repeated:
    blocks that are ``broadcast``: parameters, and the outputs of layers that are called with one example of N.

    Args:
        blocks: whose layers are recorded.
        examples: N, where these are to be repeated.
    """
    tape = Tape(blocks)
    if examples > 1:
        for name, block in blocks.items():
            if block.broadcast and block.module is None:
                weight = block.parameters[0]
                tape.copies[name] = weight.expand(examples, *weight.shape[1:])

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        first = output[0] if type(output) is tuple and output else output
        if not isinstance(first, Tensor) or not first.requires_grad:
            return output
        given = map_batch(Tensor.detach, [list(args), kwargs])
        inputs = args[0] if args else next(iter(kwargs.values()))
        axis = 0 if getattr(module, "batch_first", True) else 1
        seen = inputs.shape[axis] if inputs.ndim > axis else 0
        is_broadcast = module in repeated and seen == 1 < examples and axis == 0 and len(first) == 1
        if is_broadcast:
            seen, first = examples, first.expand(examples, *first.shape[1:])
            given = map_batch(lambda t: t.expand(examples, *t.shape[1:]) if t.shape[:1] == (1,) else t, given)
        if first._is_view():  # its place in the graph would be moved by an activation that works in place
            first = first.clone()
            output = (first, *output[1:]) if type(output) is tuple else first
        call = Recorded(tuple(given[0]), given[1], seen, get_gradient_edge(first), is_broadcast)
        tape.calls.setdefault(module, []).append(call)
        return output

    repeated = {block.module for block in blocks.values() if block.broadcast}
    layers = {block.module: None for block in blocks.values() if block.module is not None}
    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in layers]
    try:
        with in_place_of([blocks[name] for name in tape.copies], tape.copies.values()):
            yield tape
    finally:
        for handle in handles:
            handle.remove()

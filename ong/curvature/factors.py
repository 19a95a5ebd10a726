"""Factors of per-example gradients: one forward, then one backward an output cotangent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ong.curvature.blocks import Block
from ong.curvature.layers import layer_factors

__all__ = ["Factors", "PassTape", "Tape", "record"]


@dataclass(frozen=True)
class Factors:
    """Gradients of N examples for one block, G_n = Σ_t outputs_nt inputs_ntᵀ.

    Attributes:
        inputs: ``[N, T, columns]``, a with 1 appended for the bias.
        outputs: ``[N, T, rows]``, the back-propagated δ.
    """

    inputs: Tensor
    outputs: Tensor


@dataclass
class Tape:
    """What a forward pass left behind: each layer's inputs, and the place of its output in the graph.

    Places in the graph (``GradientEdge``) rather than output tensors, so that an activation that works in place
    does not move them.
    """

    blocks: Mapping[str, Block]
    uses: dict[str, list[tuple[Tensor, GradientEdge]]] = field(default_factory=dict)

    def factors(self, outputs: Tensor, cotangents: Tensor) -> dict[str, Factors]:
        """Pull one cotangent an example back: the gradients of Σ_n u_nᵀ h_n, example by example.

        Args:
            outputs: h, ``[N, C]``, of the recorded forward.
            cotangents: u, ``[N, C]``.

        Returns:
            The factors of each block that took part in the forward; a layer used k times has k times the positions.

        Raises:
            ValueError: outputs that are not ``[N, C]``, or a layer that saw another number of examples than N.
        """
        if outputs.ndim != 2 or cotangents.shape != outputs.shape:
            raise ValueError(
                f"outputs and cotangents must both be [examples, outputs], got {list(outputs.shape)} "
                f"and {list(cotangents.shape)}"
            )
        edges = [edge for calls in self.uses.values() for _, edge in calls]
        if not edges:
            return {}
        pulled = iter(torch.autograd.grad(outputs, edges, cotangents.to(outputs), retain_graph=True, allow_unused=True))
        result: dict[str, Factors] = {}
        for name, calls in self.uses.items():
            gradients = [next(pulled) for _ in calls]
            parts = [
                _assemble(self.blocks[name], inputs, gradient, len(outputs))
                for (inputs, _), gradient in zip(calls, gradients, strict=True)
                if gradient is not None
            ]
            if parts:
                result[name] = Factors(
                    torch.cat([part.inputs for part in parts], 1), torch.cat([part.outputs for part in parts], 1)
                )
        return result


def _assemble(block: Block, inputs: Tensor, cotangents: Tensor, examples: int) -> Factors:
    if len(inputs) != examples:
        raise ValueError(
            f"layer '{block.name}' saw a leading dimension of {len(inputs)} for {examples} examples; "
            "per-example gradients need the examples first in every layer"
        )
    parts = layer_factors(block.module, inputs, cotangents)
    columns = [part for part, used in zip(parts[:2], (block.weight, block.bias), strict=True) if used is not None]
    joined, outputs = torch.cat(columns, dim=2), parts.outputs
    if joined.dtype in (torch.float16, torch.bfloat16):
        joined = joined.float()
    return Factors(joined, outputs.to(joined.dtype))


def _of_its_own(output: Tensor) -> Tensor:
    """Return a layer's output as no view, whose place in the graph an activation that works in place would move."""
    return output.clone() if output._is_view() else output


@contextmanager
def record(blocks: Mapping[str, Block]) -> Iterator[Tape]:
    """Record the forward passes made inside the ``with``; the hooks are gone after it."""
    tape = Tape(blocks)

    def keep(name: str) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if isinstance(output, Tensor) and output.requires_grad:
                output = _of_its_own(output)
                inputs = args[0] if args else next(iter(kwargs.values()))
                tape.uses.setdefault(name, []).append((inputs.detach(), get_gradient_edge(output)))
            return output

        return hook

    handles = [block.module.register_forward_hook(keep(name), with_kwargs=True) for name, block in blocks.items()]
    try:
        yield tape
    finally:
        for handle in handles:
            handle.remove()


class PassTape:
    """What a training step's own forward and backward tell of each layer, without a pass more.

    Between :meth:`open` and :meth:`close` forwards are taken note of; the backward that follows leaves the cotangents.
    """

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        """Watch the layers of a model's blocks."""
        self._blocks = blocks
        self._uses: dict[str, list[list[Tensor]]] = {}  # inputs, and after the backward their cotangents
        self._handles: list[Any] = []

    def open(self) -> None:
        """Forget what was seen, and take note of forwards from now on."""
        self.close()
        self._uses = {}
        for name, block in self._blocks.items():
            self._handles.append(block.module.register_forward_hook(self._keep(name), with_kwargs=True))

    def close(self) -> None:
        """Take no note of further forwards."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _keep(self, name: str) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if isinstance(output, Tensor) and output.requires_grad:
                output = _of_its_own(output)
                use = [(args[0] if args else next(iter(kwargs.values()))).detach()]
                self._uses.setdefault(name, []).append(use)
                output.register_hook(lambda g: use.append(g.detach()) if len(use) == 1 else None)
            return output

        return hook

    def factors(self, examples: int, scale: float = 1.0) -> dict[str, Factors]:
        """Return the factors of the loss's gradients, example by example, of the layers the backward reached.

        Args:
            examples: N, of the batch.
            scale: what the cotangents are multiplied with; N where the loss is a mean over the examples.
        """
        result: dict[str, Factors] = {}
        for name, uses in self._uses.items():
            parts = [_assemble(self._blocks[name], use[0], use[1] * scale, examples) for use in uses if len(use) == 2]
            if parts:
                inputs = torch.cat([part.inputs for part in parts], 1) if len(parts) > 1 else parts[0].inputs
                outputs = torch.cat([part.outputs for part in parts], 1) if len(parts) > 1 else parts[0].outputs
                result[name] = Factors(inputs, outputs)
        return result

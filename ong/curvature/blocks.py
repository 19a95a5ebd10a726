"""A model seen as blocks: one matrix of trainable parameters a layer.

A vector over the network's parameters (a gradient, an update, the weights) is a dictionary from block name to its
matrix ``[rows, columns]``, written :data:`Vector` throughout.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ong.curvature.layers import UnsupportedLayerError, layer_factors

__all__ = ["Block", "Unsupported", "Vector", "evaluating", "find_blocks", "inner", "norm"]

Vector = dict[str, Tensor]
Unsupported = Literal["error", "ignore"]
_UNREGISTERED = layer_factors.dispatch(object)


class Holder(Protocol):
    """What a module carries as ``_ong_held`` while its parameters stand for others, see ``ong.plugins``."""

    def values(self, matrix: Tensor) -> Tensor:
        """Return the original weights, given those held."""

    def gradient(self, matrix: Tensor) -> Tensor:
        """Return the original gradient, given the one held."""


@dataclass(frozen=True)
class Block:
    """The trainable parameters of one layer as a matrix: the weight's columns, then the bias's.

    Attributes:
        name: the module's path in the model.
        module: the layer.
        weight: the layer's weight, or None when it is frozen or absent.
        bias: the layer's bias, or None when it is frozen or absent.
    """

    name: str
    module: nn.Module
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in the order of the matrix's columns."""
        return [p for p in (self.weight, self.bias) if p is not None]

    @cached_property
    def rows(self) -> int:
        """Rows of the matrix: output units, or 1 for normalisation layers, which scale coordinate by coordinate."""
        weight = getattr(self.module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim == 1 or isinstance(self.module, nn.LayerNorm):
            return 1
        return len(weight)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.rows, sum(p.numel() for p in self.parameters) // self.rows

    @cached_property
    def widths(self) -> list[int]:
        """How many columns each of the parameters has."""
        return [p.numel() // self.rows for p in self.parameters]

    def matrix(self, tensors: list[Tensor]) -> Tensor:
        """Lay tensors of the parameters' shapes out as one ``[rows, columns]`` matrix (a copy, at least float32)."""
        joined = torch.cat([t.detach().reshape(self.rows, -1) for t in tensors], dim=1)
        return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined

    def scatter(self, matrix: Tensor, tensors: list[Tensor]) -> None:
        """Copy a ``[rows, columns]`` matrix into tensors of the parameters' shapes, the inverse of :meth:`matrix`."""
        start = 0
        for tensor in tensors:
            width = tensor.numel() // self.rows
            tensor.copy_(matrix[:, start : start + width].reshape(tensor.shape))
            start += width

    def split(self, matrix: Tensor) -> list[Tensor]:
        """Return a ``[rows, columns]`` matrix as tensors of the parameters' shapes, each on its own in memory."""
        parts = zip(torch.split(matrix, self.widths, dim=1), self.parameters, strict=True)
        return [part.reshape(p.shape).contiguous() for part, p in parts]

    def values(self, *, held: bool = False) -> Tensor:
        """The parameters as a matrix, in the original coordinates or those they are held in at the moment."""
        matrix = self.matrix(list(self.parameters))
        holder = None if held else self._holder
        return matrix if holder is None else holder.values(matrix)

    @property
    def has_gradient(self) -> bool:
        """Whether the layer took part in the last backward pass."""
        return any(p.grad is not None for p in self.parameters)

    def gradient(self, *, held: bool = False) -> Tensor:
        """The ``.grad`` fields as a matrix, zero where a parameter has none.

        Args:
            held: in the coordinates the weights are held in at the moment, rather than the original ones.
        """
        matrix = self.matrix([p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters])
        holder = None if held else self._holder
        return matrix if holder is None else holder.gradient(matrix)

    def write_gradient(self, matrix: Tensor) -> None:
        """Put a matrix, in the coordinates the weights are held in, into the ``.grad`` fields.

        A parameter without a gradient keeps none.
        """
        self.scatter(matrix, [p.grad if p.grad is not None else torch.empty_like(p) for p in self.parameters])

    def take_from_gradient(self, matrix: Tensor) -> None:
        """Subtract a matrix, in the coordinates the weights are held in, from the ``.grad`` fields there are."""
        start = 0
        for parameter, width in zip(self.parameters, self.widths, strict=True):
            if parameter.grad is not None:
                parameter.grad.sub_(matrix.narrow(1, start, width).reshape(parameter.shape))
            start += width

    @property
    def is_held(self) -> bool:
        """Whether the parameters stand for others at the moment."""
        return self._holder is not None

    @property
    def _holder(self) -> Holder | None:
        return getattr(self.module, "_ong_held", None)


def find_blocks(model: nn.Module, unsupported: Unsupported = "error") -> dict[str, Block]:
    """Return the blocks of a model's trainable parameters, in the order of ``named_modules``.

    Args:
        model: any module.
        unsupported: what to do with a module that holds trainable parameters but is of no registered type:
            ``"error"``, or ``"ignore"`` (one warning; its parameters and its children's keep their plain gradient).

    Raises:
        UnsupportedLayerError: such a module and ``unsupported="error"``; two modules that share a parameter;
            a model without any block.
    """
    blocks: dict[str, Block] = {}
    owners: dict[int, str] = {}
    ignored: list[str] = []
    for name, module in model.named_modules(remove_duplicate=True):
        own = {key: p for key, p in module.named_parameters(recurse=False) if p.requires_grad}
        if not own or any(name == i or name.startswith(i + ".") for i in ignored):
            continue
        label = f"module '{name or 'the model itself'}' of type {type(module).__name__}"
        known = layer_factors.dispatch(type(module)) is not _UNREGISTERED and set(own) <= {"weight", "bias"}
        if not known:
            message = f"{label} holds trainable parameters ({', '.join(own)}) but no supported layer type"
            if unsupported == "error":
                raise UnsupportedLayerError(
                    f"{message}; freeze them, register the type with ong.curvature.layer_factors, or pass "
                    "unsupported='ignore' to leave their gradient as it is"
                )
            if name:
                ignored.append(name)
            warnings.warn(f"{message}: their plain gradient is used", stacklevel=2)
            continue
        for key, parameter in own.items():
            if id(parameter) in owners:
                raise UnsupportedLayerError(f"{label} shares its {key} with module '{owners[id(parameter)]}'")
            owners[id(parameter)] = name
        blocks[name] = Block(name, module, own.get("weight"), own.get("bias"))
    if not blocks:
        raise UnsupportedLayerError(
            f"the model ({type(model).__name__}) has no trainable layer of a supported type (Linear, Conv1d, Conv2d, "
            "normalisation layers, Embedding)"
        )
    return blocks


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode with gradients enabled, and every module's mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def inner(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Return Σ_blocks ⟨left, right⟩, a scalar."""
    return torch.stack([torch.sum(left[name] * right[name]) for name in left]).sum()


def norm(vector: Mapping[str, Tensor]) -> Tensor:
    """Return the Euclidean norm over all blocks, a scalar."""
    length: Tensor = torch.stack([torch.linalg.vector_norm(part) for part in vector.values()]).norm()
    return length

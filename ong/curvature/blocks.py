"""A model seen as blocks of trainable parameters, each one matrix.

A vector over the network's parameters (a gradient, an update, the weights) is a dictionary from block name to its
matrix ``[rows, columns]``, written :data:`Vector` throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ong.curvature.layers import UnsupportedLayerError, layer_factors

__all__ = ["Block", "Vector", "dense_gradient", "evaluating", "find_blocks", "inner", "norm"]

Vector = dict[str, Tensor]
_UNREGISTERED = layer_factors.dispatch(object)


@dataclass(frozen=True)
class Block:
    """Trainable parameters as one matrix: those of a layer of the registry, or a single other parameter.

    The matrix of a layer has the weight's columns, then the bias's. A parameter that is not a layer's is one row.

    Attributes:
        name: the layer's path in the model, or the parameter's.
        module: the layer; None for a parameter of its own, whose per-example gradients autograd takes.
        weight: the layer's weight, or None when it is frozen or absent; the parameter.
        bias: the layer's bias, or None when it is frozen or absent.
    """

    name: str
    module: nn.Module | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None = None

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in the order of the matrix's columns."""
        return [p for p in (self.weight, self.bias) if p is not None]

    @cached_property
    def rows(self) -> int:
        """Rows of the matrix: output units; 1 for normalisation layers and for parameters of their own."""
        weight = getattr(self.module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim == 1 or isinstance(self.module, nn.LayerNorm):
            return 1
        return len(weight)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.rows, sum(p.numel() for p in self.parameters) // self.rows

    @property
    def is_diagonal(self) -> bool:
        """Whether its Fisher is kept as a diagonal: parameters of their own, and embeddings (V × V otherwise)."""
        return self.module is None or isinstance(self.module, nn.Embedding)

    def matrix(self, tensors: list[Tensor]) -> Tensor:
        """Lay tensors of the parameters' shapes out as one ``[rows, columns]`` matrix (a copy, at least float32)."""
        joined = torch.cat([t.detach().reshape(self.rows, -1) for t in tensors], dim=1)
        return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined

    def split(self, matrix: Tensor) -> list[Tensor]:
        """Return a ``[rows, columns]`` matrix as new tensors of the parameters' shapes, dtypes and strides."""
        parts, start = [], 0
        for parameter, width in zip(self.parameters, self._widths, strict=True):
            part = torch.empty_like(parameter)
            parts.append(part.copy_(matrix.narrow(1, start, width).reshape(parameter.shape)))
            start += width
        return parts

    @cached_property
    def _widths(self) -> list[int]:
        return [p.numel() // self.rows for p in self.parameters]

    def values(self) -> Tensor:
        """The parameters as a matrix."""
        return self.matrix(list(self.parameters))

    @property
    def has_gradient(self) -> bool:
        """Whether the block took part in the last backward pass."""
        return any(p.grad is not None for p in self.parameters)

    def gradient(self) -> Tensor:
        """The ``.grad`` fields as a matrix, zero where a parameter has none."""
        return self.matrix([dense_gradient(p.grad, p) for p in self.parameters])


def dense_gradient(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """Return a gradient as a dense tensor of the parameter's shape; None is zero."""
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


def find_blocks(
    model: nn.Module, *, among: Collection[nn.Parameter] | None = None, apart: Collection[str] = ()
) -> dict[str, Block]:
    """Return the blocks of a model's trainable parameters, every one in exactly one block.

    Layers of the registry (:func:`ong.curvature.layer_factors`) are blocks; all other parameters, and those that two
    modules share, are blocks of their own.

    Args:
        model: any module.
        among: the parameters that count, an optimizer's; all by default.
        apart: layers whose parameters are to be blocks of their own, whatever their type.

    Raises:
        UnsupportedLayerError: a model without a trainable parameter.
    """
    counts = None if among is None else {id(p) for p in among}
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    blocks: dict[str, Block] = {}
    taken: set[int] = set()
    for name, module in model.named_modules():
        own = {
            key: p
            for key, p in module.named_parameters(recurse=False)
            if p.requires_grad and id(p) not in taken and (counts is None or id(p) in counts)
        }
        if not own:
            continue
        taken |= {id(p) for p in own.values()}
        everything = dict(module.named_parameters(recurse=False))
        layer = (
            layer_factors.dispatch(type(module)) is not _UNREGISTERED
            and set(everything) <= {"weight", "bias"}
            and name not in apart
            and all(owners[id(p)] == 1 for p in own.values())
        )
        if layer:
            blocks[name] = Block(name, module, own.get("weight"), own.get("bias"))
            continue
        for key, parameter in own.items():
            path = f"{name}.{key}" if name else key
            blocks[path] = Block(path, None, parameter)
    if not blocks:
        raise UnsupportedLayerError(f"the model ({type(model).__name__}) has no parameter to train")
    return blocks


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode with gradients on and autocast off; every module's mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    device = next((p.device.type for p in model.parameters()), "cpu")
    model.eval()
    try:
        with torch.enable_grad(), torch.autocast(device, enabled=False):
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

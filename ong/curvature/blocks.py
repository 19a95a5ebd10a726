"""A model seen as blocks of trainable parameters, each one matrix.

A vector over the network's parameters (a gradient, an update, the weights) is a dictionary from block name to its
matrix ``[rows, columns]``, written :data:`Vector` throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from ong.curvature.layers import Layout, UnsupportedLayerError, layouts_of, register_loaded

__all__ = [
    "Block",
    "Vector",
    "dense_gradient",
    "evaluating",
    "find_blocks",
    "in_place_of",
    "inner",
    "named_layouts",
    "norm",
]

Vector = dict[str, Tensor]
_OF_ITS_OWN = Layout(bias=None, diagonal=True)


@dataclass(frozen=True)
class Block:
    """Trainable parameters as one matrix: one of a layer of the registry, or a single other parameter.

    The matrix of a layer has the weight's columns, then the bias's. A parameter that is not a layer's is one row.

    Attributes:
        name: the layer's path in the model; the weight's path, where a layer has several matrices; the parameter's.
        module: the layer; None for a parameter of its own, whose per-example gradients autograd takes.
        weight: the layer's weight, or None when it is frozen or absent; the parameter.
        bias: the layer's bias, or None when it is frozen or absent.
        layout: how they make a matrix.
        holders: of a parameter of its own, the modules that hold it and its name there.
        broadcast: whether it is one for all examples along a leading axis of 1 (class tokens, tables of places), where
            the model may as well read a copy an example; :func:`ong.curvature.cover` finds that out.
        alone: whether autograd takes a layer's gradients too, an example at a time: no example that was looked at
            reached the layer (an expert, another task's head), so that nobody knows how examples come to it.
    """

    name: str
    module: nn.Module | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None = None
    layout: Layout = _OF_ITS_OWN
    holders: tuple[tuple[nn.Module, str], ...] = ()
    broadcast: bool = False
    alone: bool = False

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in the order of the matrix's columns."""
        return [p for p in (self.weight, self.bias) if p is not None]

    @property
    def rows(self) -> int:
        """Rows of the matrix: output units; 1 for normalisation layers and for parameters of their own."""
        return self.layout.rows

    @cached_property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.rows, sum(p.numel() for p in self.parameters) // self.rows

    @property
    def is_diagonal(self) -> bool:
        """Whether its Fisher is kept as a diagonal: parameters of their own, and embeddings (V × V otherwise)."""
        return self.layout.diagonal

    def matrix(self, tensors: list[Tensor]) -> Tensor:
        """Lay tensors of the parameters' shapes out as one ``[rows, columns]`` matrix (a copy, at least float32)."""
        joined = torch.cat([self._turned(t.detach()).reshape(self.rows, -1) for t in tensors], dim=1)
        return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined

    def split(self, matrix: Tensor) -> list[Tensor]:
        """Return a ``[rows, columns]`` matrix as new tensors of the parameters' shapes, dtypes and strides."""
        parts, start = [], 0
        for parameter, width in zip(self.parameters, self._widths, strict=True):
            part = torch.empty_like(parameter)
            turned = self._turned(part)
            turned.copy_(matrix.narrow(1, start, width).reshape(turned.shape))
            parts.append(part)
            start += width
        return parts

    def _turned(self, tensor: Tensor) -> Tensor:
        """Return a parameter's tensor, or a view of it, with the matrix's rows first."""
        return tensor.mT if self.layout.transposed and tensor.ndim > 1 else tensor

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


def named_layouts(model: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, Layout]]]:
    """Yield a model's modules with their paths, and with the matrices of those that are layers by their names."""
    register_loaded()
    for name, module in model.named_modules():
        layouts = layouts_of(module)
        paths = [name] if len(layouts) == 1 else [_joined(name, layout.weight) for layout in layouts]
        yield name, module, dict(zip(paths, layouts, strict=True))


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def find_blocks(
    model: nn.Module, *, among: Collection[nn.Parameter] | None = None, apart: Collection[str] = ()
) -> dict[str, Block]:
    """Return the blocks of a model's trainable parameters, every one in exactly one block.

    The matrices of layers of the registry (:func:`ong.curvature.layer_factors`) are blocks; all other parameters, and
    those that two modules share, are blocks of their own.

    Args:
        model: any module.
        among: the parameters that count, an optimizer's; all by default.
        apart: blocks whose parameters are to be blocks of their own, whatever the layer's type.

    Raises:
        UnsupportedLayerError: a model without a trainable parameter.
    """
    counts = None if among is None else {id(p) for p in among}
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for key, held in module._parameters.items():
            if held is not None:
                holders.setdefault(id(held), []).append((module, key))
    blocks: dict[str, Block] = {}
    taken: set[int] = set()
    for name, module, layouts in named_layouts(model):
        further = {key for layout in layouts.values() for key in layout.names if "." in key}
        own = {
            key: p
            for key, p in module.named_parameters(recurse=bool(further))
            if ("." not in key or key in further)
            and p.requires_grad
            and id(p) not in taken
            and (counts is None or id(p) in counts)
        }
        taken |= {id(p) for p in own.values()}
        alone = all(len(holders[id(p)]) == 1 for p in own.values())
        for path, layout in layouts.items():
            if alone and path not in apart and any(key in own for key in layout.names):
                weight, bias = own.pop(layout.weight, None), own.pop(layout.bias or "", None)
                blocks[path] = Block(path, module, weight, bias, layout)
        for key, parameter in own.items():
            path = _joined(name, key)
            blocks[path] = Block(path, None, parameter, holders=tuple(holders[id(parameter)]))
    if not blocks:
        raise UnsupportedLayerError(f"the model ({type(model).__name__}) has no parameter to train")
    return blocks


@contextmanager
def in_place_of(blocks: Iterable[Block], tensors: Iterable[Tensor]) -> Iterator[None]:
    """Let modules read other tensors in place of parameters of their own, as ``torch.func.functional_call`` does."""
    with ExitStack() as stack:
        for block, tensor in zip(blocks, tensors, strict=True):
            for module, key in block.holders:
                _forget(module)
                stack.callback(_forget, module)
                stack.enter_context(_reparametrize_module(module, {key: tensor}))
        yield


def _forget(module: nn.Module) -> None:
    """Let a module drop what it made of its parameters for eval mode, as timm's LeViT keeps its attention's biases."""
    if not module.training:
        module.train()
        module.eval()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode with gradients on and autocast off; every module's mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    device = next((p.device.type for p in model.parameters() if not p.is_meta), "cpu")
    model.eval()
    try:
        with torch.enable_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        model.train(modes[0][1])  # of which modules hear that keep something in eval mode, such as merged weights
        for module, training in modes:
            module.training = training


def inner(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Return Σ_blocks ⟨left, right⟩, a scalar."""
    return torch.stack([torch.sum(left[name] * right[name]) for name in left]).sum()


def norm(vector: Mapping[str, Tensor]) -> Tensor:
    """Return the Euclidean norm over all blocks, a scalar."""
    length: Tensor = torch.stack([torch.linalg.vector_norm(part) for part in vector.values()]).norm()
    return length

"""The registry of layer types: how their parameters make matrices, and the factors of these matrices' gradients.

A new layer type is one function, registered from anywhere::

    @layer_factors.register
    def _(module: MyLayer, call: Call) -> LayerFactors: ...

Its parameters ``weight`` and ``bias`` are seen as one matrix: the weight with its leading dimension as rows (one row
where it is one-dimensional), the bias as further columns. A layer whose parameters have other names or make several
matrices says so in a function of :func:`layer_layouts`. The gradient of example n for one matrix is

    G_n = Σ_t δ_nt a_ntᵀ        (rows × columns)

summed over the T positions at which the layer's weights act on that example (1 for a plain ``Linear``, the pixels of
the output for a convolution). Eschenhagen et al., arXiv 2311.00636, call this the "expand" setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, NamedTuple

from torch import Tensor, nn

from ong.errors import UserError

__all__ = [
    "Call",
    "LayerFactors",
    "Layout",
    "UnsupportedLayerError",
    "factors_of_call",
    "layer_factors",
    "layer_layouts",
    "layouts_of",
]


class UnsupportedLayerError(UserError):
    """A module holds trainable parameters whose per-example gradients are not known here."""


class Call(NamedTuple):
    """One call of a layer, and what came back to it.

    Attributes:
        args: what it was called with, examples first (second in a module with ``batch_first=False``).
        kwargs: the same by name.
        cotangents: gradient of Σ_n u_nᵀh_n with respect to the layer's output (the first one of several), of its shape.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    cotangents: Tensor

    @property
    def inputs(self) -> Tensor:
        """The first argument."""
        first: Tensor = self.args[0] if self.args else next(iter(self.kwargs.values()))
        return first

    def argument(self, place: int, name: str) -> Any:
        """Return an argument, by its place or its name; None where it was not given."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name)


class LayerFactors(NamedTuple):
    """Factors of the gradients of N examples at T positions, for one matrix.

    Attributes:
        weight_inputs: ``[N, T, weight columns]``, what the weight is multiplied with.
        bias_inputs: ``[N, T, bias columns]``, the same for the bias (ones for ``Linear``); None without one.
        outputs: δ, ``[N, T, rows]``, the cotangent that reached the layer's output; or, as integers ``[N, T]``, the
            row at which δ is 1, zero in all others.
    """

    weight_inputs: Tensor
    bias_inputs: Tensor | None
    outputs: Tensor


@dataclass(frozen=True)
class Layout:
    """How parameters of a layer make one matrix: the weight's columns, then the bias's.

    Attributes:
        weight: the name of one parameter.
        bias: the name of another one, or None.
        rows: of the matrix.
        transposed: whether the weight is stored with its rows last, ``[columns, rows]``.
        diagonal: whether the Fisher is kept as a diagonal, as that of a vocabulary's rows is.
        affine: whether the layer multiplies the matrix with inputs that do not depend on it (a in G_n = Σ_t δ_nt a_ntᵀ
            depends on the inputs alone).
    """

    weight: str = "weight"
    bias: str | None = "bias"
    rows: int = 1
    transposed: bool = False
    diagonal: bool = False
    affine: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@singledispatch
def layer_factors(module: nn.Module, call: Call) -> LayerFactors | Mapping[str, LayerFactors]:
    """Return the factors of a layer's per-example gradients.

    Args:
        module: the layer.
        call: its arguments, and the cotangents of its output.

    Returns:
        The factors; of a layer with several matrices those of each, by the name of its weight.

    Raises:
        UnsupportedLayerError: no function is registered for the module's type, or the call is of an unknown kind.

    Example:
        >>> import torch
        >>> from ong.curvature import Call, LayerFactors, cover, layer_factors, logits_of
        >>> class Scale(torch.nn.Module):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.weight = torch.nn.Parameter(torch.ones(width))
        ...     def forward(self, x):
        ...         return self.weight * x
        >>> @layer_factors.register
        ... def _(module: Scale, call: Call) -> LayerFactors:
        ...     gradients = (call.inputs * call.cotangents)[:, None]      # [N, 1, width], one row
        ...     return LayerFactors(gradients, None, gradients.new_ones(len(gradients), 1, 1))
        >>> model = torch.nn.Sequential(Scale(3), torch.nn.Linear(3, 2))
        >>> blocks = cover(model, lambda batch: logits_of(model, batch), torch.randn(4, 3))
        >>> [(name, block.shape) for name, block in blocks.items()]
        [('0', (1, 3)), ('1', (2, 4))]
    """
    raise UnsupportedLayerError(f"layers of type {type(module).__name__} are not supported")


@singledispatch
def layer_layouts(module: nn.Module) -> tuple[Layout, ...]:
    """Return the matrices that a layer's parameters make; none for a layer of an unknown kind.

    One of ``weight`` and ``bias`` for a type that says nothing else.
    """
    return (Layout(rows=leading_dimension(module)),)


def leading_dimension(module: nn.Module) -> int:
    """Return the rows of a layer's weight: its leading dimension, 1 where it has one dimension or is absent."""
    weight = getattr(module, "weight", None)
    return len(weight) if isinstance(weight, Tensor) and weight.ndim > 1 else 1


_UNREGISTERED = layer_factors.dispatch(object)


def layouts_of(module: nn.Module) -> tuple[Layout, ...]:
    """Return the matrices of a module of the registry; none where it has parameters that are in none of them."""
    if layer_factors.dispatch(type(module)) is _UNREGISTERED:
        return ()
    layouts = layer_layouts(module)
    named = {name for layout in layouts for name in layout.names}
    return layouts if named.issuperset(name for name, _ in module.named_parameters(recurse=False)) else ()


def factors_of_call(module: nn.Module, call: Call) -> Mapping[str, LayerFactors]:
    """Return the factors of each of a layer's matrices, by the name of its weight."""
    found = layer_factors(module, call)
    return {layer_layouts(module)[0].weight: found} if isinstance(found, LayerFactors) else found

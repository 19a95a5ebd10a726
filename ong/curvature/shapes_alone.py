"""A model whose tensors have shapes and no values: what it takes is told without computing anything."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["shapes_alone"]


class _Yes(TorchFunctionMode):
    """Says yes to whatever is asked of tensors without values: all agrees, all is finite."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return True if func is Tensor.__bool__ and args[0].is_meta else func(*args, **(kwargs or {}))


@contextmanager
def shapes_alone(model: nn.Module) -> Iterator[None]:
    """Put tensors of the same shapes without values (device ``meta``) in place of a model's for the ``with``.

    Whatever is set on the model's modules inside is undone after it, so that nothing kept by a forward is left. A model
    that looks at values other than by asking whether (``if x.any()``) raises, of any type.

    Args:
        model: the network.
    """
    bare: dict[int, Any] = {}

    def without(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in bare:
            empty = torch.empty_like(value, device="meta")
            is_parameter = isinstance(value, nn.Parameter)
            bare[id(value)] = nn.Parameter(empty, value.requires_grad) if is_parameter else empty
        return bare[id(value)]

    def stand_in(attribute: Any) -> Any:
        if type(attribute) is dict:  # of parameters, of buffers, of what a forward keeps
            return {key: without(part) for key, part in attribute.items()}
        if type(attribute) is list:
            return [without(part) for part in attribute]
        return copy.copy(attribute) if type(attribute) in (OrderedDict, set) else without(attribute)

    real = [(module, dict(vars(module))) for module in model.modules()]
    try:
        for module, attributes in real:
            vars(module).update({name: stand_in(attribute) for name, attribute in attributes.items()})
        with _Yes():
            yield
    finally:
        for module, attributes in real:
            vars(module).clear()
            vars(module).update(attributes)

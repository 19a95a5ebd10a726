"""Modules whose parameters stand for others while a task is trained, and how anyone gets the originals back."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ong.curvature import Block
from ong.plugins.coefficients import Coefficients

__all__ = ["Held", "Owner", "guards", "release"]


class Owner(Protocol):
    """Who holds layers: can put all of them back, with the momentum that belongs to them."""

    def leave(self) -> None:
        """Put the original weights back."""


class Held:
    """What a held module carries as ``_ong_held``; a copy of the module carries a copy, which nobody owns."""

    def __init__(self, owner: Owner, biased: bool, coefficients: Coefficients | None = None) -> None:
        """Note who holds the module, whether its bias is held too, and what its weights lack."""
        self.owner: Owner | None = owner
        self.biased = biased
        self.coefficients = coefficients

    def _back(self, matrix: Tensor) -> Tensor:
        """Return a matrix in the original coordinates."""
        return matrix

    def values(self, matrix: Tensor) -> Tensor:
        """Return the original weights, given those held."""
        own = self.coefficients
        return self._back(matrix if own is None else matrix + own.combine(own.values))

    def gradient(self, matrix: Tensor) -> Tensor:
        """Return the original gradient, or once it is projected the update, given the one held."""
        own = self.coefficients
        return self._back(matrix if own is None or own.step is None else matrix - own.combine(own.step))

    def __deepcopy__(self, memo: Any) -> Held:
        copied = copy.copy(self)
        copied.owner = None
        copied.coefficients = None if self.coefficients is None else self.coefficients.copy()
        return copied


def guards(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Have weights and momentum put back before anybody saves or loads them; return the hooks' handles."""
    of_optimizer = partial(release, model)
    return [
        model.register_state_dict_pre_hook(release),  # type: ignore[no-untyped-call]
        model.register_load_state_dict_pre_hook(release),  # type: ignore[no-untyped-call]
        optimizer.register_state_dict_pre_hook(of_optimizer),
        optimizer.register_load_state_dict_pre_hook(of_optimizer),
    ]


def release(model: nn.Module, *_: Any) -> None:
    """Put original weights into all held modules of a model."""
    for module in model.modules():
        held = vars(module).get("_ong_held")
        if held is None:
            continue
        if held.owner is not None:
            held.owner.leave()
            continue
        # a copy, made while the original was held
        own = dict(module.named_parameters(recurse=False))
        block = Block("", module, own["weight"], own["bias"] if held.biased else None)
        with torch.no_grad():
            block.scatter(held.values(block.values(held=True)), list(block.parameters))
        del module._ong_held, module.forward

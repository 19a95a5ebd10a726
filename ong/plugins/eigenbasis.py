"""Training with the weights held in a metric's eigenbasis, where preconditioning is an elementwise scale.

With W̃ = U_Sᵀ W U_A a layer computes z = W [x; 1] = U_S W̃ (U_Aᵀ [x; 1]), so the rotation of a gradient (rows × columns
twice a step) becomes a rotation of the layer's input (batch × columns), or none where the inputs were rotated once for
the whole task. Gradient descent, with momentum too, is the same in any orthonormal basis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import BaseSGDTemplate, PeriodicEval
from avalanche.training.templates.update_type.sgd_update import SGDUpdate
from torch import Tensor, nn

from ong.curvature import Block, BlockMetric, Metric, evaluating
from ong.plugins.coefficients import Coefficients, alike, moving
from ong.plugins.examples import forward_of, probe_batch
from ong.plugins.first_layer import FirstLayer
from ong.plugins.held_linear import Bases, HeldLinear
from ong.plugins.holding import Held, guards
from ong.streams import InMemoryLoader

__all__ = ["Eigenbasis", "why_not"]

_PASSIVE = (EvaluationPlugin, Clock, PeriodicEval, InMemoryLoader)
_STEP = {
    "training_epoch": SGDUpdate.training_epoch,
    "backward": BaseSGDTemplate.backward,
    "optimizer_step": BaseSGDTemplate.optimizer_step,
}
_LOOKS = ("training_epoch", "training_iteration", "forward", "backward", "update")


def why_not(strategy: Any, plugin: Any) -> str | None:
    """Return why a strategy must train in the original coordinates, or None.

    Another plugin with a hook between two steps might read or write weights and gradients; one that does not, or does
    so through :class:`ong.curvature.Block`, says so by an attribute ``coordinate_free = True``.
    A strategy that steps in its own way might do so too (clip, rescale or accumulate gradients).
    """
    if type(strategy.optimizer) is not torch.optim.SGD:
        return f"{type(strategy.optimizer).__name__} scales coordinates"
    for name, usual in _STEP.items():
        if getattr(getattr(strategy, name), "__func__", None) is not usual:
            return f"{type(strategy).__name__} has a {name} of its own"
    for other in strategy.plugins:
        if other is plugin or isinstance(other, _PASSIVE) or getattr(other, "coordinate_free", False):
            continue
        hooks = [name for name in dir(type(other)) if name.startswith(("before_", "after_"))]
        between_steps = [name for name in hooks if name.endswith(_LOOKS) and "eval" not in name]
        if any(getattr(type(other), name).__module__ != "avalanche.core" for name in between_steps):
            return f"{type(other).__name__} works on the original coordinates"
    return None


class _Rotated(Held):
    def __init__(self, owner: Eigenbasis, biased: bool, metric: BlockMetric, coefficients: Coefficients | None) -> None:
        super().__init__(owner, biased, coefficients)
        self._metric = metric

    def _back(self, matrix: Tensor) -> Tensor:
        return self._metric.rotate_back(matrix)


class Eigenbasis:
    """Keeps the weights of a model's ``Linear`` layers rotated while a task is trained.

    The parameters stay the same objects: between :meth:`enter` and :meth:`leave` their storage holds the rotated
    numbers, and the layers' ``forward`` rotates inputs and outputs, so that the network's function is unchanged to
    round-off. ``state_dict`` of the model leaves first; :class:`ong.curvature.Block` reads original coordinates.

    Attributes:
        names: the layers that are rotated; the others train as they are.
        first: the layer that gets the batch's inputs as they are, flattened; None where there is none.
        entered: whether the weights are rotated now.
    """

    def __init__(self, strategy: Any, blocks: Mapping[str, Block], metric: Metric, reader: str | None) -> None:
        """Take the layers that can be rotated; nothing is rotated yet.

        Args:
            strategy: the strategy.
            blocks: the model's blocks.
            metric: M.
            reader: the layer that reads the batch's inputs, see :func:`ong.plugins.inputs.reader_of_inputs`.
        """
        self._model, self._optimizer = strategy.model, strategy.optimizer
        self._blocks = blocks
        self.names = frozenset(
            name
            for name, block in blocks.items()
            if type(block.module) is nn.Linear
            and block.weight is not None
            and "forward" not in vars(block.module)  # as others' wrappers leave it
            and block.weight.dtype == metric.blocks[name].scale.dtype  # not of bfloat16
            and alike(self._optimizer, block.parameters)
        )
        self.entered = False
        self.first = FirstLayer(blocks[reader], self._optimizer) if reader in self.names else None
        self.turn_to(metric)
        self._guards = guards(self._model, self._optimizer)

    def turn_to(self, metric: Metric) -> None:
        """Take a metric; a further one must have the same U_A of the first layer, where inputs were worked out."""
        self.leave()
        self._metric = metric
        self._bases = {
            name: Bases(metric.blocks[name], self._blocks[name].bias is not None) for name in sorted(self.names)
        }
        if self.first is not None:
            self.first.turn_to(metric.blocks[self.first.name], self._bases[self.first.name])

    def enter(self, *, gradient: bool = False) -> None:
        """Rotate weights and momentum in, and the gradient where it is still wanted."""
        if not self.entered:
            for name in self.names:
                module, metric, first = self._blocks[name].module, self._metric.blocks[name], self._first(name)
                self._turn(name, metric.rotate, gradient)
                coefficients = first.coefficients if first is not None else None
                module._ong_held = _Rotated(self, self._bases[name].biased, metric, coefficients)  # type: ignore[assignment]
                module.forward = MethodType(self._forward_of(name), module)
            self.entered = True

    def leave(self) -> None:
        """Rotate weights, momentum and gradient back."""
        if self.entered:
            if self.first is not None:
                self.first.fold()
            for name in self.names:
                module = self._blocks[name].module
                del module._ong_held, module.forward
                self._turn(name, self._metric.blocks[name].rotate_back, True)
            self.entered = False

    def close(self) -> None:
        """Rotate back for good."""
        self.leave()
        if self.first is not None:
            self.first.let_go()
        for guard in self._guards:
            guard.remove()

    def _first(self, name: str) -> FirstLayer | None:
        return self.first if self.first is not None and self.first.name == name else None

    def _turn(self, name: str, turn: Callable[[Tensor], Tensor], gradient: bool) -> None:
        block = self._blocks[name]
        parts = moving(block, self._optimizer)
        values: list[Tensor] = list(block.parameters)  # themselves: a backward that needs them as they were then fails
        with torch.no_grad():
            for tensors in (values, parts.momentum, parts.gradient if gradient else None):
                if tensors is not None:
                    block.scatter(turn(block.matrix(tensors)), tensors)

    def _forward_of(self, name: str) -> Callable[[nn.Linear, Tensor], Tensor]:
        bases, first = self._bases[name], self._first(name)

        def forward(module: nn.Linear, input: Tensor) -> Tensor:
            held: Any = module._ong_held
            x = input  # a keyword of nn.Linear's own forward
            rotated, shift = first.look_up(x, held.coefficients) if first is not None else (None, None)
            flat, bias = x if x.ndim == 2 else x.reshape(-1, x.shape[-1]), module.bias if bases.biased else None
            z: Tensor = HeldLinear.apply(flat, rotated, module.weight, bias, bases, shift)
            z = z if x.ndim == 2 else z.reshape(*x.shape[:-1], -1)
            return z if bases.biased or module.bias is None else z + module.bias  # a frozen bias is as it was

        return forward

    def agrees(self, strategy: Any) -> bool:
        """Return whether the model's outputs are the same in both coordinates.

        They are not when its code reads a layer's weights itself.
        """
        batch = probe_batch(strategy)
        with evaluating(self._model), torch.no_grad():
            expected = forward_of(strategy, batch)
            parts = [moving(self._blocks[name], self._optimizer) for name in self.names]
            exact = [tensor for part in parts for tensors in part if tensors is not None for tensor in tensors]
            copies = [tensor.clone() for tensor in exact]
            self.enter()
            found = forward_of(strategy, batch)
            self.leave()
            for tensor, copy in zip(exact, copies, strict=True):  # looking leaves no rounding behind
                tensor.copy_(copy)
        scale = expected.abs().max().clamp_min(1)
        return bool((found - expected).abs().max() <= 1e-3 * scale)

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
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ong.curvature import Batch, Block, BlockMetric, Metric, evaluating
from ong.plugins.holding import Held, release
from ong.plugins.inputs import WorkedOut, reader_of_inputs
from ong.streams import InMemoryLoader

__all__ = ["Eigenbasis", "why_not"]

_PASSIVE = (EvaluationPlugin, Clock, PeriodicEval, InMemoryLoader)
_LOOKS = ("training_epoch", "training_iteration", "forward", "backward", "update")
_ROTATED_INPUTS = 2**28  # numbers of a task's rotated inputs that are worth keeping


def why_not(strategy: Any, plugin: Any) -> str | None:
    """Return why a strategy must train in the original coordinates, or None.

    Another plugin with a hook between two steps might read or write weights and gradients; one that does not, or does
    so through :class:`ong.curvature.Block`, says so by an attribute ``coordinate_free = True``.
    """
    if type(strategy.optimizer) is not torch.optim.SGD:
        return f"{type(strategy.optimizer).__name__} scales coordinates"
    for other in strategy.plugins:
        if other is plugin or isinstance(other, _PASSIVE) or getattr(other, "coordinate_free", False):
            continue
        hooks = [name for name in dir(type(other)) if name.startswith(("before_", "after_"))]
        between_steps = [name for name in hooks if name.endswith(_LOOKS) and "eval" not in name]
        if any(getattr(type(other), name).__module__ != "avalanche.core" for name in between_steps):
            return f"{type(other).__name__} works on the original coordinates"
    return None


class _Rotated(Held):
    """What :class:`ong.curvature.Block` asks to read a rotated layer in its original coordinates."""

    def __init__(self, owner: Eigenbasis, block: Block, metric: BlockMetric) -> None:
        super().__init__(owner, block.bias is not None)
        self._metric = metric

    def values(self, matrix: Tensor) -> Tensor:
        return self._metric.rotate_back(matrix)

    gradient = values


class _Bases:
    """U_A and U_S of a layer, cut up as its passes want them."""

    def __init__(self, metric: BlockMetric, biased: bool) -> None:
        basis = metric.inputs_basis
        self.width = len(basis) - biased
        self.biased = biased
        self.inputs, self.last = basis[: self.width], basis[-1]
        self.back, self.back_last = self.inputs[:, : self.width].T.contiguous(), self.inputs[:, -1].contiguous()
        self.outputs, self.outputs_back = metric.outputs_basis, metric.outputs_basis.T.contiguous()


class _HeldLinear(torch.autograd.Function):
    """z = U_S [W̃ b̃] U_Aᵀ[x; 1] for rows x: one node of the graph where autograd would lay down seven."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rotated: Tensor | None, weight: Tensor, bias: Tensor | None, bases: _Bases
    ) -> Tensor:
        """Take ``[N, in]`` inputs, or ``[N, columns]`` rotated ones with them; return ``[N, out]``."""
        if rotated is None:
            rotated = torch.addmm(bases.last, x, bases.inputs) if bases.biased else x @ bases.inputs
        by_weight = rotated[:, : bases.width]
        ctx.bases = bases
        ctx.save_for_backward(rotated, weight, bias)
        inner = by_weight @ weight.T
        if bias is not None:
            inner.addcmul_(rotated[:, bases.width :], bias)
        return inner @ bases.outputs_back

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rotated, weight, bias = ctx.saved_tensors
        bases: _Bases = ctx.bases
        inner = gradient @ bases.outputs
        inputs = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            inputs = (inner @ weight) @ bases.back
            if bias is not None:
                inputs = inputs.addcmul((inner @ bias)[:, None], bases.back_last)
        if ctx.needs_input_grad[2]:
            by_weight = inner.T @ rotated[:, : bases.width]
        if ctx.needs_input_grad[3]:
            by_bias = inner.T @ rotated[:, bases.width]
        return inputs, None, by_weight, by_bias, None


class Eigenbasis:
    """Keeps the weights of a model's ``Linear`` layers rotated while a task is trained.

    The parameters stay the same objects: between :meth:`enter` and :meth:`leave` their storage holds the rotated
    numbers, and the layers' ``forward`` rotates inputs and outputs, so that the network's function is unchanged to
    round-off. ``state_dict`` of the model leaves first; :class:`ong.curvature.Block` reads original coordinates.

    Attributes:
        names: the layers that are rotated; the others train as they are.
        entered: whether the weights are rotated now.
    """

    def __init__(self, model: nn.Module, blocks: Mapping[str, Block], metric: Metric, optimizer: Any) -> None:
        """Choose the layers; nothing is rotated yet."""
        self._blocks, self._metric, self._optimizer = blocks, metric, optimizer
        self.names = frozenset(
            name
            for name, block in blocks.items()
            if type(block.module) is nn.Linear
            and block.weight is not None
            and block.weight.dtype == metric.blocks[name].scale.dtype  # not of bfloat16
        )
        self.entered = False
        self._first: str | None = None
        self._inputs = WorkedOut()
        self._guard = model.register_state_dict_pre_hook(release)  # type: ignore[no-untyped-call]

    def enter(self) -> None:
        """Rotate weights and momentum in."""
        if not self.entered:
            for name in self.names:
                self._turn(name, self._metric.blocks[name].rotate)
                module = self._blocks[name].module
                module._ong_held = _Rotated(self, self._blocks[name], self._metric.blocks[name])  # type: ignore[assignment]
                module.forward = MethodType(self._forward_of(name), module)
            self.entered = True

    def leave(self) -> None:
        """Rotate weights and momentum back."""
        if self.entered:
            for name in self.names:
                module = self._blocks[name].module
                del module._ong_held, module.forward
                self._turn(name, self._metric.blocks[name].rotate_back)
            self.entered = False

    def close(self) -> None:
        """Rotate back for good."""
        self.leave()
        self._guard.remove()

    def _groups(self, name: str) -> list[list[Tensor]]:
        """Return what is rotated of a layer: its parameters, and their momentum where there is any."""
        block = self._blocks[name]
        states = [self._optimizer.state.get(parameter, {}) for parameter in block.parameters]
        groups = [[parameter.data for parameter in block.parameters]]
        if all(isinstance(state.get("momentum_buffer"), Tensor) for state in states):
            groups.append([state["momentum_buffer"] for state in states])
        return groups

    def _held_tensors(self) -> list[Tensor]:
        return [tensor for name in sorted(self.names) for group in self._groups(name) for tensor in group]

    def _turn(self, name: str, turn: Callable[[Tensor], Tensor]) -> None:
        block = self._blocks[name]
        with torch.no_grad():
            for tensors in self._groups(name):
                block.scatter(turn(block.matrix(tensors)), tensors)

    def _forward_of(self, name: str) -> Callable[[nn.Linear, Tensor], Tensor]:
        biased, first = self._blocks[name].bias is not None, name == self._first
        bases = _Bases(self._metric.blocks[name], biased)

        def forward(module: nn.Linear, x: Tensor) -> Tensor:
            flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
            rotated = self._inputs.of(x) if first else None
            z: Tensor = _HeldLinear.apply(flat, rotated, module.weight, module.bias if biased else None, bases)
            z = z if x.ndim == 2 else z.reshape(*x.shape[:-1], -1)
            return z if biased or module.bias is None else z + module.bias  # a frozen bias is as it was

        return forward

    def agrees(self, forward: Callable[[Batch], Tensor], model: nn.Module, batch: Batch) -> bool:
        """Return whether the model's outputs are the same in both coordinates.

        They are not when its code reads a layer's weights itself. On the way the layer is found that gets the batch's
        inputs as they are, flattened.
        """
        with evaluating(model), torch.no_grad():
            modules = {name: self._blocks[name].module for name in self.names}
            expected, self._first = reader_of_inputs(modules, forward, batch)
            exact = self._held_tensors()
            copies = [tensor.clone() for tensor in exact]
            self.enter()
            found = forward(batch)
            self.leave()
            for tensor, copy in zip(exact, copies, strict=True):  # looking leaves no rounding behind
                tensor.copy_(copy)
        scale = expected.abs().max().clamp_min(1)
        return bool((found - expected).abs().max() <= 1e-3 * scale)

    def rotate_inputs(self, strategy: Any) -> Any:
        """Return a loader whose batches bring the first layer's rotated inputs along, see :class:`WorkedOut`.

        The strategy's own comes back where no layer takes the inputs as they are too.
        """
        if self._first is None:
            return strategy.dataloader
        block, basis = self._blocks[self._first], self._metric.blocks[self._first].inputs_basis

        def rotated(x: Tensor) -> Tensor:
            x = x.to(basis)
            return torch.addmm(basis[-1], x, basis[:-1]) if block.bias is not None else x @ basis

        return self._inputs.enrich(strategy, rotated, block.shape[1], _ROTATED_INPUTS)

    def offer(self, strategy: Any) -> None:
        """Have the batch's rotated inputs ready for the next forward."""
        self._inputs.offer(strategy)

    def take_back(self) -> None:
        """The strategy's own forward is over."""
        self._inputs.take_back()

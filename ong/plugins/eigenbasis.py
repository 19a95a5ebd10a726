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

from ong.curvature import Batch, Block, BlockMetric, Metric, evaluating
from ong.plugins.coefficients import Coefficients, Shift, plain_sgd
from ong.plugins.held_linear import Bases, HeldLinear
from ong.plugins.holding import Held, release
from ong.plugins.inputs import WorkedOut, reader_of_inputs
from ong.projection import FactoredRows, Rows
from ong.streams import InMemoryLoader

__all__ = ["Eigenbasis", "why_not"]

_PASSIVE = (EvaluationPlugin, Clock, PeriodicEval, InMemoryLoader)
_LOOKS = ("training_epoch", "training_iteration", "forward", "backward", "update")
_WORKED_OUT = 2**28  # numbers worked out from a task's inputs that are worth keeping


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

    def __init__(self, owner: Eigenbasis, block: Block, metric: BlockMetric, coefficients: Coefficients | None) -> None:
        super().__init__(owner, block.bias is not None)
        self._metric = metric
        self.coefficients = coefficients

    def __deepcopy__(self, memo: Any) -> Held:
        copied = super().__deepcopy__(memo)
        assert isinstance(copied, _Rotated)
        copied.coefficients = None if self.coefficients is None else self.coefficients.copy()
        return copied

    def values(self, matrix: Tensor) -> Tensor:
        """Return W."""
        own = self.coefficients
        return self._metric.rotate_back(matrix if own is None else matrix + own.combine(own.values))

    def gradient(self, matrix: Tensor) -> Tensor:
        """Return the gradient, or once it is projected the update."""
        own = self.coefficients
        if own is not None and own.step is not None:
            matrix = matrix - own.combine(own.step)
        return self._metric.rotate_back(matrix)


class Eigenbasis:
    """Keeps the weights of a model's ``Linear`` layers rotated while a task is trained.

    The parameters stay the same objects: between :meth:`enter` and :meth:`leave` their storage holds the rotated
    numbers, and the layers' ``forward`` rotates inputs and outputs, so that the network's function is unchanged to
    round-off. ``state_dict`` of the model leaves first; :class:`ong.curvature.Block` reads original coordinates.

    In the layer that reads the batch's inputs, what projections in the metric take away may be held apart, in
    :class:`ong.plugins.coefficients.Coefficients` of M⁻¹G: see :meth:`prepare`.

    Attributes:
        names: the layers that are rotated; the others train as they are.
        first: the layer that gets the batch's inputs as they are, flattened; None where there is none.
        entered: whether the weights are rotated now.
    """

    def __init__(self, strategy: Any, blocks: Mapping[str, Block], metric: Metric) -> None:
        """Take the layers that can be rotated; nothing is rotated yet, and :meth:`agrees` comes first."""
        self._model, self._optimizer = strategy.model, strategy.optimizer
        self._blocks, self._metric, self._batch = blocks, metric, strategy.train_mb_size
        self.names = frozenset(
            name
            for name, block in blocks.items()
            if type(block.module) is nn.Linear
            and block.weight is not None
            and block.weight.dtype == metric.blocks[name].scale.dtype  # not of bfloat16
        )
        self.entered = False
        self.first: str | None = None
        self._inputs = WorkedOut()
        self._coefficients: Coefficients | None = None
        self._rows: FactoredRows | None = None  # the first layer's directions, in the eigenbasis
        self._scales: list[Tensor] = []  # M⁻¹ of the first layer, a tensor a parameter
        self._guard = self._model.register_state_dict_pre_hook(release)

    def enter(self) -> None:
        """Rotate weights and momentum in."""
        if not self.entered:
            for name in self.names:
                block, metric = self._blocks[name], self._metric.blocks[name]
                self._turn(name, metric.rotate)
                coefficients = self._coefficients if name == self.first else None
                block.module._ong_held = _Rotated(self, block, metric, coefficients)  # type: ignore[assignment]
                block.module.forward = MethodType(self._forward_of(name), block.module)
            self.entered = True

    def leave(self) -> None:
        """Rotate weights and momentum back."""
        if self.entered:
            self._fold()
            for name in self.names:
                module = self._blocks[name].module
                del module._ong_held, module.forward
                self._turn(name, self._metric.blocks[name].rotate_back)
            self.entered = False

    def close(self) -> None:
        """Rotate back for good."""
        self.leave()
        self._guard.remove()

    def _fold(self) -> None:
        """Put what the coefficients stand for into the rotated weights and their momentum."""
        own = self._coefficients
        if own is None:
            return
        assert self.first is not None
        values, *momentum = self._groups(self.first)
        block = self._blocks[self.first]
        with torch.no_grad():
            block.scatter(block.matrix(values) + own.combine(own.values), values)
            for buffers in momentum:
                block.scatter(block.matrix(buffers) - own.combine(own.velocity), buffers)
        own.clear()

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
        biased, first = self._blocks[name].bias is not None, name == self.first
        bases = Bases(self._metric.blocks[name], biased)

        def forward(module: nn.Linear, x: Tensor) -> Tensor:
            flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
            rotated, shift = self._of_inputs(module, x, flat, bases) if first else (None, None)
            z: Tensor = HeldLinear.apply(flat, rotated, module.weight, module.bias if biased else None, bases, shift)
            z = z if x.ndim == 2 else z.reshape(*x.shape[:-1], -1)
            return z if biased or module.bias is None else z + module.bias  # a frozen bias is as it was

        return forward

    def _of_inputs(
        self, module: nn.Linear, x: Tensor, flat: Tensor, bases: Bases
    ) -> tuple[Tensor | None, Shift | None]:
        """Return the first layer's rotated inputs, where they are known, and what its coefficients add."""
        held: Any = module._ong_held
        own: Coefficients | None = held.coefficients
        rotated, kernel = self._inputs.of(x), None
        if rotated is not None and rotated.shape[1] > bases.columns:
            rotated, kernel = rotated[:, : bases.columns], rotated[:, bases.columns :]
        if own is None:
            return rotated, None
        with torch.no_grad():
            rotated = bases.rotated(flat) if rotated is None else rotated
            kernel = own.layout.kernel(rotated) if kernel is None else kernel
        return rotated, own.shift(kernel)

    def agrees(self, forward: Callable[[Batch], Tensor], batch: Batch) -> bool:
        """Return whether the model's outputs are the same in both coordinates.

        They are not when its code reads a layer's weights itself. On the way the first layer is found.
        """
        with evaluating(self._model), torch.no_grad():
            modules = {name: self._blocks[name].module for name in self.names}
            expected, self.first = reader_of_inputs(modules, forward, batch)
            exact = self._held_tensors()
            copies = [tensor.clone() for tensor in exact]
            self.enter()
            found = forward(batch)
            self.leave()
            for tensor, copy in zip(exact, copies, strict=True):  # looking leaves no rounding behind
                tensor.copy_(copy)
        scale = expected.abs().max().clamp_min(1)
        return bool((found - expected).abs().max() <= 1e-3 * scale)

    def prepare(self, strategy: Any, directions: Mapping[str, Rows]) -> Any:
        """Work out what the first layer needs of a task's inputs.

        With directions its projections are held in coefficients from now on, where that is exact (the metric's scale is
        a sum of R products, so that M⁻¹G_m has R factors, and the optimizer is plain SGD) and costs less than two
        products with the directions.

        Args:
            strategy: the strategy, with its loader.
            directions: G in the eigenbasis, where updates are projections off them in the metric; or nothing.

        Returns:
            A loader whose batches bring along the layer's rotated inputs, and their κ, see
            :class:`ong.plugins.inputs.WorkedOut`; the strategy's own where no layer takes the inputs as they are.
        """
        if self.first is None:
            return strategy.dataloader
        metric, width = self._metric.blocks[self.first], self._blocks[self.first].shape[1]
        rows = directions.get(self.first)
        before, self._coefficients = self._coefficients, None
        if isinstance(rows, FactoredRows) and metric.terms is not None:
            terms = metric.terms[0].shape[1]
            once = self._inputs.fits(strategy, width + terms * len(rows), _WORKED_OUT)
            if self._worth(terms, strategy.train_epochs if once else 1):
                self._coefficients = before
                if before is None:  # not the next piece of an online stream
                    self._coefficients, self._rows = Coefficients(rows.scaled(metric.terms)), rows
                    self._scales = self._blocks[self.first].split(metric.scale)
                width += terms * len(rows) if once else 0
        bases = Bases(metric, self._blocks[self.first].bias is not None)

        def work(x: Tensor) -> Tensor:
            rotated = bases.rotated(x.to(bases.inputs))
            if self._coefficients is None or width == bases.columns:
                return rotated
            return torch.cat([rotated, self._coefficients.layout.kernel(rotated)], 1)

        return self._inputs.enrich(strategy, work, width, _WORKED_OUT)

    def _worth(self, terms: int, uses: int) -> bool:
        """Return whether a step in coefficients multiplies less than two products with the directions."""
        assert self.first is not None
        block = self._blocks[self.first]
        height, width = block.shape
        cheaper: bool = self._batch * terms * (width / uses + 2 * height) < 2 * height * width
        return cheaper and plain_sgd(self._optimizer, block.parameters)

    def offer(self, strategy: Any) -> None:
        """Have what was worked out for the batch ready for the next forward."""
        self._inputs.offer(strategy)
        if self._coefficients is not None:
            self._coefficients.watch()

    def take_back(self) -> None:
        """The strategy's own forward is over."""
        self._inputs.take_back()

    def products(self) -> Tensor | None:
        """Return the first layer's part of GᵀM⁻¹g, ``[M]``, where its projections are held in coefficients.

        None where they are not; and from now on they are not where :meth:`Coefficients.products` does not know them.
        """
        if self._coefficients is None:
            return None
        assert self.first is not None
        block, metric = self._blocks[self.first], self._metric.blocks[self.first]

        def expected() -> Tensor:
            assert self._rows is not None
            return self._rows.dot(metric.scale * block.gradient(held=True))

        found = self._coefficients.products(block.parameters, expected)
        if found is None:
            self.let_go()
        return found

    def let_go(self) -> None:
        """Hold nothing in coefficients any more."""
        self._fold()
        self._coefficients = None
        if self.entered and self.first is not None:
            held: Any = self._blocks[self.first].module._ong_held
            held.coefficients = None

    def move(self, step: Tensor) -> None:
        """Put M⁻¹g into the first layer's gradient, and let the coefficients follow SGD with c."""
        assert self.first is not None
        assert self._coefficients is not None
        block = self._blocks[self.first]
        assert block.weight is not None
        for parameter, scale in zip(block.parameters, self._scales, strict=True):
            assert parameter.grad is not None
            parameter.grad.mul_(scale)
        self._coefficients.follow(step, self._optimizer, block.weight)

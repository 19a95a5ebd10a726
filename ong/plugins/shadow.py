"""OGD steps in the coefficients of the stored directions, for layers where that multiplies less.

Such a layer keeps W_held, which plain SGD moves along g, and the coefficients C of what the projections took away, see
:mod:`ong.plugins.coefficients`:

    W = W_held + Σ_m C_m δ_m a_mᵀ,      C ← C + lr·c,      c = (GᵀG)⁺Gᵀg.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature import Block, evaluating
from ong.plugins.coefficients import Coefficients, plain_sgd
from ong.plugins.examples import forward_of, probe_batch
from ong.plugins.holding import Held, guards
from ong.plugins.inputs import WorkedOut, reader_of_inputs
from ong.projection import DirectionMemory, FactoredRows

__all__ = ["Shadow"]

_KERNEL = 2**26  # numbers of a task's κ that are worth keeping


class Shadow:
    """Holds one ``Linear`` layer as W_held and C while a task is trained.

    A step in vectors takes two products with the directions, 2 · rows · columns multiplications each. In coefficients a
    batch of N takes N · (2 rows + columns), the columns' once a task where the layer reads inputs that lie in memory;
    in a layer further up 2 N · (rows + columns), as its inputs have a gradient too.

    As in :class:`ong.plugins.eigenbasis.Eigenbasis` the parameters stay the same objects, the network's function is
    unchanged to round-off whoever calls it, ``state_dict`` of the model leaves first, and
    :class:`ong.curvature.Block` reads W.

    Attributes:
        name: the layer.
    """

    def __init__(
        self, model: nn.Module, block: Block, rows: FactoredRows, optimizer: torch.optim.SGD, *, reads_inputs: bool
    ) -> None:
        """Take a layer's stored gradients, of one position each, and whether it reads the batch's inputs."""
        assert block.weight is not None
        self._reads_inputs = reads_inputs
        self.name, self._block, self._optimizer = block.name, block, optimizer
        self._coefficients = Coefficients(rows)
        self._coefficients.follow(optimizer, block.weight)
        self._held = Held(self, block.bias is not None, self._coefficients)
        self._entered = False
        self._inputs = WorkedOut()
        self._guards = guards(model, optimizer)

    @classmethod
    def of(cls, strategy: Any, blocks: Mapping[str, Block], memory: DirectionMemory) -> list[Shadow]:
        """Return the shadows of the layers that they are exact for and cheaper."""
        first = reader_of_inputs(strategy, blocks)
        shadows = []
        for name in (name for name, block in blocks.items() if _suits(block, memory)):
            rows, (height, width) = memory.rows[name], blocks[name].shape
            assert isinstance(rows, FactoredRows)
            numbers = 2 * height + (width if name == first else 2 * width)
            if strategy.train_mb_size * numbers > 2 * height * width:
                continue
            if not plain_sgd(strategy.optimizer, blocks[name].parameters):
                continue
            shadow = cls(strategy.model, blocks[name], rows, strategy.optimizer, reads_inputs=name == first)
            if shadow._agrees(strategy):
                shadows.append(shadow)
            else:
                shadow.close()
        return shadows

    def _agrees(self, strategy: Any) -> bool:
        """Return whether W_held and C are as good as W; not where the model's code reads the weights itself."""
        block, own, batch = self._block, self._coefficients, probe_batch(strategy)
        exact = block.values(held=True)
        generator = torch.Generator().manual_seed(0)
        own.values += torch.randn(len(own.values), generator=generator).to(own.values)
        own.values *= exact.norm() / own.combine(own.values).norm().clamp_min(1e-30)
        with evaluating(strategy.model), torch.no_grad():
            block.scatter(self._held.values(exact), list(block.parameters))
            expected = forward_of(strategy, batch)
            block.scatter(exact, list(block.parameters))
            self.enter()
            found = forward_of(strategy, batch)
            own.clear()
            self.leave()
            block.scatter(exact, list(block.parameters))
        return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max().clamp_min(1))

    def enter(self) -> None:
        """Let the layer's forward add what C stands for."""
        if not self._entered:
            module = self._block.module
            module._ong_held = self._held  # type: ignore[assignment]
            module.forward = MethodType(self._forward(), module)
            self._entered = True

    def leave(self) -> None:
        """Put W into the parameters, and what belongs to it into momentum and gradient."""
        if not self._entered:
            return
        self._coefficients.fold(self._block, self._optimizer)
        module = self._block.module
        del module._ong_held, module.forward
        self._entered = False

    def close(self) -> None:
        """Leave for good."""
        self.leave()
        self._coefficients.close()
        for guard in self._guards:
            guard.remove()

    def _forward(self) -> Callable[[nn.Linear, Tensor], Tensor]:
        def forward(module: nn.Linear, input: Tensor) -> Tensor:
            x = input  # a keyword of nn.Linear's own forward
            flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
            held: Any = module._ong_held
            own: Coefficients = held.coefficients
            known = held is self._held and self._reads_inputs and not x.requires_grad
            kernel = self._inputs.of(x) if known else None
            kernel = own.layout.kernel(flat) if kernel is None else kernel
            z = nn.functional.linear(flat, module.weight, module.bias) + own.shift(kernel)
            return z if x.ndim == 2 else z.reshape(*x.shape[:-1], -1)

        return forward

    def enrich(self, strategy: Any) -> Any:
        """Return a loader whose batches bring κ along, see :class:`ong.plugins.inputs.WorkedOut`, where it is known."""
        layout = self._coefficients.layout
        if not self._reads_inputs:
            return strategy.dataloader
        return self._inputs.enrich(strategy, lambda x: layout.kernel(x.to(layout.inputs)), len(layout), _KERNEL)

    def watch(self, strategy: Any) -> None:
        """Have what was worked out for the batch ready for the next forward."""
        self._coefficients.watch()
        if self._reads_inputs:
            self._inputs.offer(strategy)

    def look_away(self) -> None:
        """The strategy's own forward is over."""
        self._inputs.take_back()

    def products(self) -> Tensor | None:
        """Return the layer's part of Gᵀg, ``[M]``, or None, see :meth:`Coefficients.products`."""
        return self._coefficients.products(self._block)

    def move(self, step: Tensor) -> None:
        """Let the next step take c along."""
        self._coefficients.take(step)


def _suits(block: Block, memory: DirectionMemory) -> bool:
    rows = memory.rows.get(block.name)
    return (
        type(block.module) is nn.Linear
        and "forward" not in vars(block.module)  # as others' wrappers leave it
        and block.weight is not None
        and isinstance(rows, FactoredRows)
        and rows.inputs.shape[1] == 1
        and rows.inputs.dtype == block.weight.dtype
    )

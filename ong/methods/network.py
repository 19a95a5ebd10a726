"""A network as a method sees it: its outputs, the likelihood of its targets, and the parameters that train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ong.curvature import (
    PROBED,
    Batch,
    Block,
    Forward,
    Likelihood,
    check_likelihood,
    cover,
    evaluating,
    likelihood_of,
    likelihood_of_targets,
    logits_of,
    targets_of,
)
from ong.errors import UserError
from ong.methods.data import Examples
from ong.methods.layout import Columns, apart_of, check_columns

__all__ = ["Network"]


class Network:
    """A model, bare of wrappers, with the optimizer that trains it.

    Attributes:
        model: the network; of one wrapped in ``DistributedDataParallel`` or compiled, what is inside.
        compiled: whether ``torch.compile`` wrapped it.
        known_likelihood: the likelihood of the targets, once it is given or was asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        logits: Forward | None,
        criterion: Any,
        likelihood: Likelihood | None,
    ) -> None:
        if not isinstance(model, nn.Module) or not hasattr(optimizer, "param_groups"):
            given = f"{type(model).__name__}, {type(optimizer).__name__}"
            raise UserError(f"attach takes a torch.nn.Module and an optimizer, in this order; got {given}")
        if isinstance(model, DistributedDataParallel):
            model = model.module
        self.compiled = hasattr(model, "_orig_mod")
        self.model: nn.Module = getattr(model, "_orig_mod", model)  # whose layers hooks can reach
        self.known_likelihood = None if likelihood is None else check_likelihood(likelihood)
        self._optimizer = optimizer
        self._logits = logits
        self._criterion = criterion

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def forward(self, batch: Batch) -> Tensor:
        """Return the model's logits ``[N, C]`` of a batch."""
        return self._logits(batch) if self._logits is not None else logits_of(self.model, batch)

    @property
    def in_optimizer(self) -> set[str]:
        """The names of the model's parameters that the optimizer holds."""
        among = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        return {name for name, p in self.model.named_parameters() if id(p) in among}

    def probe(self, examples: Examples) -> Batch:
        """Return a few examples, always the same."""
        return examples.probe(PROBED)

    def likelihood(self, examples: Examples) -> Likelihood:
        """Return the likelihood of the targets: as given, else read from the criterion, else from the targets.

        Raises:
            UserError: it cannot be told.
        """
        if self.known_likelihood is None:
            if self._criterion is not None:
                self.known_likelihood = likelihood_of(self._criterion)
            else:
                batch = self.probe(examples)
                with evaluating(self.model), torch.no_grad():
                    logits = self.forward(batch)
                self.known_likelihood = likelihood_of_targets(logits, targets_of(batch))
        return self.known_likelihood

    def blocks(self, examples: Examples, columns: Columns) -> dict[str, Block]:
        """Return the parameters that the optimizer trains, as blocks.

        Args:
            examples: the task's.
            columns: of the finished tasks' layers, which may have grown since.

        Raises:
            UserError: none of them is the model's, outputs depend on others, a layer that no longer fits.
            UnsupportedLayerError: a model whose output for an example depends on others in its batch.
        """
        among = [p for group in self._optimizer.param_groups for p in group["params"]]
        probe = self.probe(examples)
        own = {id(p) for p in self.model.parameters()}
        outside = [p for p in among if id(p) not in own and p.requires_grad]
        if len(outside) == len(among):
            raise UserError(f"the optimizer holds none of the parameters of the model ({type(self.model).__name__})")
        if outside:
            with evaluating(self.model):
                outputs = self.forward(probe).sum()
                if any(g is not None for g in torch.autograd.grad(outputs, outside, allow_unused=True)):
                    raise UserError(
                        f"the outputs depend on parameters of the optimizer outside of {type(self.model).__name__}; "
                        "attach a module that holds all of them"
                    )
        kept = columns.keys() - {name for name, _ in self.model.named_parameters()}
        apart = apart_of(columns, self.model)
        blocks = cover(self.model, self.forward, probe, among=among, apart=apart, kept=kept)
        check_columns(columns, self.model, blocks)
        return blocks

    def trained(self, blocks: dict[str, Block]) -> set[str]:
        """Return the names of the parameters in blocks."""
        own = {id(parameter) for block in blocks.values() for parameter in block.parameters}
        return {name for name, p in self.model.named_parameters() if id(p) in own}

    def reached(self, examples: Examples) -> set[str]:
        """Return the names of parameters that the outputs depend on; of frozen ones all."""
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        with evaluating(self.model):
            outputs = self.forward(self.probe(examples)).sum()
            found = torch.autograd.grad(outputs, list(parameters.values()), allow_unused=True)
        unreached = {name for name, gradient in zip(parameters, found, strict=True) if gradient is None}
        return {name for name, _ in self.model.named_parameters()} - unreached

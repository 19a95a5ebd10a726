"""Methods in other libraries' loops: :mod:`ong.integrations.lightning`, :mod:`ong.integrations.transformers`.

Each holds one callback, ``MethodCallback``, without any mathematics. Neither library is imported before its module is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ong.errors import UserError

__all__ = ["check_trains"]

_SHARDED = ("DTensor", "FlatParameter")  # of FSDP, in its two versions


def check_trains(what: str, model: nn.Module, optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer, if it takes steps of the whole model that a method can rewrite.

    Args:
        what: the trainer, for the message.
        model: the network, bare of wrappers.
        optimizer: what takes its steps, bare of wrappers.

    Raises:
        UserError: an optimizer that is not PyTorch's or trains other parameters; parameters that lie in pieces.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            f"{what} trains with an optimizer whose steps cannot be rewritten, {type(optimizer).__name__}; use one of "
            "torch.optim, without DeepSpeed"
        )
    parameters = list(model.parameters())
    if any(type(p).__name__ in _SHARDED or hasattr(p, "ds_id") for p in parameters):
        raise UserError(
            f"{what} spreads the parameters over processes (FSDP, DeepSpeed), and a method needs whole layers; use DDP"
        )
    known = set(map(id, parameters))
    if not any(id(p) in known for group in optimizer.param_groups for p in group["params"]):
        raise UserError(f"{what} trains with a {type(optimizer).__name__} that holds none of the model's parameters")
    return optimizer

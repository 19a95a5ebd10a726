"""Whether what is kept of past tasks still fits a model's blocks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ong.curvature import Block
from ong.errors import UserError

__all__ = ["Columns", "apart_of", "check_columns", "columns_of"]

Columns = dict[str, tuple[int, int]]


def columns_of(blocks: Mapping[str, Block]) -> Columns:
    """Return how many columns of each block's matrix are the weight's and the bias's."""
    return {
        name: tuple(0 if p is None else p.numel() // block.rows for p in (block.weight, block.bias))  # type: ignore[misc]
        for name, block in blocks.items()
    }


def apart_of(before: Columns, model: nn.Module) -> set[str]:
    """Return the layers whose parameters were blocks of their own in a past task."""
    return {name.rpartition(".")[0] for name, _ in model.named_parameters() if name in before}


def check_columns(before: Columns, model: nn.Module, blocks: Mapping[str, Block]) -> None:
    """See that layers of past tasks are there, and have gained columns at their end only, where zeros stand for them.

    Raises:
        UserError: a layer that is gone, has lost columns, or whose inputs have changed in number beside a bias; a layer
            that was covered by its factors and now is not, or the other way round.
    """
    known = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
    gone = sorted(before.keys() - known)
    if gone:
        raise UserError(f"past tasks left something for layers that the model no longer has: {', '.join(gone)}")
    now = columns_of(blocks)
    for name in before.keys() & now.keys():
        (weight, bias), (new_weight, new_bias) = before[name], now[name]
        if new_weight < weight or new_bias < bias or (bias and new_weight != weight):
            raise UserError(
                f"layer '{name}' had {weight} trainable columns of weights and {bias} of biases in a past task and has "
                f"{new_weight} and {new_bias} now, which what is kept of that task does not fit; freeze a layer as a "
                "whole, and give it new outputs rather than new inputs"
            )
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    trained = {id(parameter) for block in blocks.values() for parameter in block.parameters}
    for name in before.keys() - now.keys():
        held = [parameters[name]] if name in parameters else modules[name].parameters(recurse=False)
        if any(id(parameter) in trained for parameter in held):
            raise UserError(
                f"'{name}' was used in another way in a past task than it is now (as its layer's type is, by all "
                "examples; or read by other code, shared, or fed some of the examples), so what is kept of it does "
                "not fit"
            )

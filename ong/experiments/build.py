"""From the names in a recipe to objects: classes by ``module:Name``, optimizers, strategies."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from avalanche.core import BasePlugin
from avalanche.training.templates import BaseSGDTemplate
from torch import nn

from ong.errors import UserError
from ong.experiments.options import check_options, is_table
from ong.experiments.schema import Buildable
from ong.extensions import named
from ong.methods import Method
from ong.plugins import as_plugin

__all__ = ["build", "build_optimizer", "resolve"]


def resolve(use: str, kind: type, what: str, *, functions: bool = False) -> Any:
    """Return the class that ``"module:Name"`` names, a subclass of ``kind``; of a method its plugin.

    Args:
        use: the module and the name in it.
        kind: what the class must be a subclass of.
        what: how errors name it.
        functions: whether it may be a function that returns such an object.

    Raises:
        UserError: another form, no such module or name, or a class of another kind.
    """
    found = named(use, what)
    if functions and callable(found) and not isinstance(found, type):
        return found
    if kind is BasePlugin and isinstance(found, type) and issubclass(found, Method):
        return as_plugin(found)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{what}: use = '{use}' is not a subclass of {kind.__module__}.{kind.__name__}")
    return found


def build(recipe: Buildable, kind: type, what: str, *args: Any, functions: bool = False, **given: Any) -> Any:
    """Build what a recipe names, its options checked by name against the constructor.

    An option that is a table with ``use`` is built in the same way.

    Args:
        recipe: the class and its options.
        kind: what it must be a subclass of.
        what: how errors name it.
        args: further positional arguments.
        functions: whether the recipe may name a function that returns such an object.
        given: further keyword arguments; those the constructor does not have are left out, options win over them.

    Raises:
        UserError: an unknown option, a missing one, a value of another type, or one the constructor refuses.
    """
    found = resolve(recipe.use, kind, what, functions=functions)
    named = [n for n, p in inspect.signature(found).parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    is_template = isinstance(found, type) and issubclass(found, BaseSGDTemplate)
    known = named if is_template else None  # they pass what they do not know up, to nobody
    check_options(found, recipe.options, f"{what} {found.__name__}", known)
    options = {name: value for name, value in given.items() if name in named} | recipe.options
    for name, value in options.items():
        if is_table(value):
            options[name] = build(Buildable(**value), object, f"{what} {found.__name__}: '{name}'", **given)
    try:
        made = found(*args, **options)
    except UserError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{what} {found.__name__}: {error or 'its options contradict each other'}") from None
    if not isinstance(made, kind):
        raise UserError(f"{what}: '{recipe.use}' made a {type(made).__name__}, expected a {kind.__name__}")
    return made


def build_optimizer(recipe: Buildable, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer over a model's parameters.

    Raises:
        UserError: as :func:`build`; or one that takes steps by a closure, such as LBFGS.
    """
    optimizer: torch.optim.Optimizer = build(recipe, torch.optim.Optimizer, "optimizer", model.parameters())
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"optimizer {type(optimizer).__name__} evaluates the loss several times a step, which training loops that "
            "compute one gradient a step do not offer; use another"
        )
    return optimizer

"""Checks of what the user hands in: names, counts, outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ong.curvature.variance.categorical import Categorical
from ong.curvature.variance.families import Family
from ong.curvature.variance.gaussian import Gaussian
from ong.errors import UnknownNameError, UserError

__all__ = ["FAMILIES", "check_count", "check_name", "check_outputs", "check_positive", "resolve_family"]

FAMILIES: dict[str, type[Family]] = {"categorical": Categorical, "gaussian": Gaussian}


def resolve_family(family: str | Family) -> Family:
    """Return the likelihood a name stands for; an instance passes through.

    Raises:
        UnknownNameError: no likelihood has this name.
    """
    if isinstance(family, Family):
        return family
    if family not in FAMILIES:
        raise UnknownNameError("output family", str(family), FAMILIES)
    return FAMILIES[family]()


def check_name(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return ``name`` if it is among ``choices``; else raise UnknownNameError."""
    known = list(choices)
    if name not in known:
        raise UnknownNameError(kind, str(name), known)
    return name


def check_count(what: str, value: int, least: int = 1) -> int:
    """Return ``value`` if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{what} = {value!r}; expected a whole number of at least {least}")
    return value


def check_positive(what: str, value: float) -> float:
    """Return ``value`` if it is positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{what} = {value!r}; expected a positive number")
    return value


def check_outputs(outputs: object, inputs: int) -> Tensor:
    """Return the network's outputs if they are finite and ``[inputs, C]``.

    Raises:
        UserError: outputs are not one floating tensor of that shape, or hold NaN or infinity.
    """
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        raise UserError(f"the model returned {type(outputs).__name__}; expected one floating tensor [inputs, outputs]")
    if outputs.ndim != 2 or outputs.shape[0] != inputs or outputs.shape[1] == 0:
        raise UserError(f"the model returned shape {tuple(outputs.shape)}; expected [{inputs}, outputs]")
    bad = ~torch.isfinite(outputs).all(1)
    if bad.any():
        raise UserError(
            f"the outputs of input {int(bad.nonzero()[0])} hold NaN or infinity; no Fisher is defined there"
        )
    return outputs

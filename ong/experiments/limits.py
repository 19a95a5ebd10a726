"""What no run can do: numbers that single precision does not hold, networks and streams that no machine holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil  # type: ignore[import-untyped]
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import UninitializedParameter

from ong.errors import UserError

__all__ = ["MOST_TASKS", "check_numbers", "check_tasks", "within_memory"]

MOST_TASKS = 1000
"""Of a stream: the accuracy matrix is taken on T test sets after each of T tasks."""

_LEAST, _MOST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # normal numbers of single precision
_MOST_WHOLE = 2**63 - 1
_DEEPEST = 30  # tables in tables of a recipe
_COPIES = 4  # of its weights, that training a network takes at least: a gradient, a step, those of a task's end
_ALLOCATION = re.compile(r"memory|overflow|size calculation|negative dimension", re.IGNORECASE)


def check_numbers(values: Any, what: str, place: str = "", depth: int = 0) -> None:
    """Check that all numbers of a recipe are ones that a run can compute with.

    Args:
        values: a table, or what stands in one.
        what: how errors name the recipe.
        place: the dotted key of ``values``.
        depth: of tables around it.

    Raises:
        UserError: NaN, infinity, a fraction too small or too large for single precision, a whole number above 2⁶³ − 1,
            or tables that are nested too deeply.
    """
    if depth > _DEEPEST:
        raise UserError(f"{what}: '{place[:40]}…' is nested more than {_DEEPEST} deep")
    if isinstance(values, Mapping | list | tuple):
        for key, part in values.items() if isinstance(values, Mapping) else enumerate(values):
            check_numbers(part, what, f"{place}.{key}" if place else str(key), depth + 1)
    elif isinstance(values, float) and values and not _LEAST <= abs(values) <= _MOST:
        expected = f"0 or a number from {_LEAST:.1e} to {_MOST:.1e}" if math.isfinite(values) else "a finite number"
        raise UserError(f"{what}: '{place}': {expected} is expected, got {values!r}")
    elif isinstance(values, int) and abs(values) > _MOST_WHOLE:
        raise UserError(f"{what}: '{place}': a whole number of at most {_MOST_WHOLE} is expected")


def check_tasks(tasks: Any, what: str) -> None:
    """Check that a stream has no more tasks than a run can be judged on.

    Raises:
        UserError: it has.
    """
    if isinstance(tasks, int) and tasks > MOST_TASKS:
        raise UserError(
            f"{what}: 'stream.tasks': at most {MOST_TASKS}, got {tasks}: accuracy is taken on every task after each"
        )


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Refuse networks that this machine cannot train, before their weights are drawn.

    Inside, parameters are counted as modules register them.

    Raises:
        UserError: their weights, and as many numbers three times more, do not fit; or another allocation failed.
    """
    total, known, limit = 0, set[int](), int(psutil.virtual_memory().total)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or id(parameter) in known or isinstance(parameter, UninitializedParameter):
            return
        known.add(id(parameter))
        total += parameter.numel() * parameter.element_size()
        if _COPIES * total > limit:
            raise UserError(
                f"{what}: its weights take {total / 1e9:.3g} GB or more, and training {_COPIES} times as much; this "
                f"machine has {limit / 1e9:.3g} GB: at most {limit / _COPIES / 1e9:.3g} GB of weights"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError) as error:
        told = str(error).strip().split("\n")[0]
        if isinstance(error, RuntimeError) and not _ALLOCATION.search(told):
            raise
        raise UserError(
            f"{what}: it needs more than the {limit / 1e9:.3g} GB of this machine ({told[:200] or 'an array'}); lower "
            "the sizes in its recipes"
        ) from None
    finally:
        handle.remove()

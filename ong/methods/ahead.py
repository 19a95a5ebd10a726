"""What a model takes by shapes alone, asked in a copy of this process: nothing of the asking is left in this one."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Questions", "drop_values", "in_a_copy"]

_PIECE = 2**16  # bytes read at a time


class Questions(TorchFunctionMode):
    """Says yes to what a model asks of tensors without values (``if x.any()``), and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and args[0].is_meta:
            self.count += 1
            return True
        return func(*args, **(kwargs or {}))


def drop_values(model: nn.Module) -> None:
    """Put tensors of the same shapes without values (device ``meta``) in place of all of a model's, for good."""
    bare: dict[int, Any] = {}

    def without(value: Any) -> Any:
        if type(value) is dict:  # parameters, buffers, what a forward keeps
            return {key: without(part) for key, part in value.items()}
        if type(value) is list:
            return [without(part) for part in value]
        if isinstance(value, Tensor) and id(value) not in bare:
            empty = torch.empty_like(value, device="meta")
            is_parameter = isinstance(value, nn.Parameter)
            bare[id(value)] = value, nn.Parameter(empty, value.requires_grad) if is_parameter else empty
        return bare[id(value)][1] if isinstance(value, Tensor) else value

    for module in model.modules():
        vars(module).update({name: without(attribute) for name, attribute in vars(module).items()})


def in_a_copy(work: Callable[[], Any], seconds: float) -> Any:
    """Return what a function returns in a fork of this process; None where it raises, dies or takes longer.

    The fork has no output, works in one thread, and ends with the function, so whatever that leaves in models, caches
    and random states ends with it. None too where there are no forks.

    Args:
        work: returns something that can be pickled.
        seconds: the most that it may take.
    """
    if not hasattr(os, "fork"):
        return None
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads: one that hangs is ended
        child = os.fork()
    if not child:
        _answer(work, writing)
    os.close(writing)
    parts, deadline = list[bytes](), time.monotonic() + seconds
    try:
        while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (part := os.read(reading, _PIECE)):
                break
            parts.append(part)
    finally:
        os.close(reading)
        with suppress(OSError):  # it has ended, or somebody else has waited for it
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    try:
        return pickle.loads(b"".join(parts))
    except (EOFError, pickle.UnpicklingError):
        return None


def _answer(work: Callable[[], Any], writing: int) -> None:
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        torch.set_num_threads(1)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(work(), pipe)
    finally:
        os._exit(0)

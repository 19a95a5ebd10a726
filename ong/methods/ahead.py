"""A look at a model by shapes alone, in a copy of this process: nothing of it is left in this one."""

from __future__ import annotations

import os
import pickle
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from select import select as readable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ong.curvature import Batch, Block, find_blocks, map_batch, select
from ong.errors import UserError
from ong.methods.network import Network

__all__ = ["look_ahead"]

_PIECE = 2**16  # bytes read at a time
_PATIENCE = 10.0  # seconds that a look may take
_MOST = 1000  # questions that a model may ask; one that asks for ever asks more


def look_ahead(network: Network, probe: Batch, check: Callable[[dict[str, Block], Batch], bool]) -> list[str]:
    """Check a model of which only the shapes are known, and return the names of the blocks that its layers' types tell.

    None are returned where shapes alone do not tell: of a model that looks at values, or where the check says so, as of
    layers whose weights are read by other code.

    Args:
        network: the model with its optimizer; nothing happens to it.
        probe: examples, of which the first one's shapes count.
        check: takes the blocks and an example, all without values, the model being so too; returns whether they tell.

    Raises:
        UserError: whatever the check raises.
    """
    one = map_batch(lambda t: t.to("meta"), select(probe, slice(0, 1)))
    names = network.in_optimizer

    def look() -> tuple[str, list[str]]:
        _drop_values(network.model)
        blocks = find_blocks(network.model, among=[p for n, p in network.model.named_parameters() if n in names])
        try:
            with _Questions() as asked:
                told = check(blocks, one)
        except UserError as error:
            return str(error), []
        return "", list(blocks) if told and not asked.count else []

    refusal, told = _in_a_copy(look, _PATIENCE) or ("", [])
    if refusal:
        raise UserError(refusal)
    return told


class _Questions(TorchFunctionMode):
    """Says yes to what a model asks of tensors without values (``if x.any()``), and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and args[0].is_meta:
            self.count += 1
            if self.count > _MOST:
                raise RuntimeError
            return True
        return func(*args, **(kwargs or {}))


def _drop_values(model: nn.Module) -> None:
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


def _in_a_copy(work: Callable[[], Any], seconds: float) -> Any:
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
        while readable([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
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

"""Running statistics and other buffers: what moves old outputs without a step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils.hooks import RemovableHandle

from ong.errors import UnknownNameError

__all__ = ["BATCH_NORM", "BatchNorm", "RunningStatistics", "check_batch_norm"]

BatchNorm = Literal["freeze", "update"]
BATCH_NORM: tuple[str, ...] = get_args(BatchNorm)


def check_batch_norm(choice: str) -> None:
    """Raise :class:`UnknownNameError` unless the choice is a known one."""
    if choice not in BATCH_NORM:
        raise UnknownNameError("choice of batch_norm", choice, BATCH_NORM)


class RunningStatistics:
    """Holds a model's running statistics still while a task is trained, and notices what moves all the same.

    A frozen layer (batch and instance normalisation, spectral norm) is in eval mode while it is called, and normalises
    by what it has; the mode that it was in is put back after each call.
    """

    def __init__(
        self, model: nn.Module, *, freeze: bool, promised: bool, compiled: bool, apart: Mapping[str, Tensor]
    ) -> None:
        """Begin a task.

        Args:
            model: the network.
            freeze: keep the statistics of normalisation layers.
            promised: whether old outputs are promised to stay, so that what moves all the same is worth a warning.
            compiled: whether it was compiled, and must be compiled anew to see the hooks that freeze.
            apart: parameters that no step of the method moves.
        """
        self._model = model
        self._apart = {name: (p, p._version, _length(p)) for name, p in apart.items()} if promised else {}
        self._layers = {name: module for name, module in model.named_modules() if _has_statistics(module)}
        self._handles: list[Any] = []
        self._before: dict[str, Tensor] = {}
        if freeze:
            self._handles = [handle for module in self._layers.values() for handle in _frozen(module)]
            if compiled and self._handles:
                torch.compiler.reset()
        elif promised and self._layers:
            warnings.warn(
                f"batch_norm='update': the running statistics of {len(self._layers)} layers go on moving, and old "
                "outputs with them, whatever the steps; use batch_norm='freeze' to keep old outputs",
                stacklevel=4,
            )
        if promised:
            ignored = () if freeze else tuple(f"{name}." for name in self._layers)
            self._before = {
                name: buffer.detach().clone()
                for name, buffer in model.named_buffers()
                if buffer.is_floating_point() and not name.startswith(ignored or ("\0",))
            }

    def close(self) -> None:
        """End the task; warn of what has moved without the method."""
        for handle in self._handles:
            handle.remove()
        now = dict(self._model.named_buffers())
        moved = [n for n, old in self._before.items() if n in now and not torch.equal(old, now[n].to(old.device))]
        written = {name: length for name, (p, version, length) in self._apart.items() if p._version != version}
        alone = [name for name, length in written.items() if _length(self._apart[name][0]) != length]
        self._handles, self._before, self._apart = [], {}, {}
        if moved:
            warnings.warn(
                f"buffers of the model changed while a task was trained ({_named(moved)}): old outputs may have moved "
                "with them; put the layers that hold them in eval mode after the first task",
                stacklevel=4,
            )
        if alone:
            warnings.warn(
                f"parameters changed by other steps than those that are rewritten ({_named(alone)}): old outputs may "
                "have moved with them; attach the optimizer of all that trains",
                stacklevel=4,
            )


def _has_statistics(module: nn.Module) -> bool:
    """Return whether a forward in train mode moves buffers of a module: running statistics, spectral norm's vectors."""
    if isinstance(module, _NormBase):
        return module.running_mean is not None
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks)


def _length(parameter: Tensor) -> float:
    """Return ‖p‖, which tells whether what was written differs from what was there, unlike after ``load_state_dict``.

    Not the sum: a step on a softmax layer leaves that of its weights as it is.
    """
    wide = torch.float32 if parameter.device.type == "mps" else torch.float64
    whole = parameter.detach() if parameter.is_floating_point() else parameter.detach().to(wide)  # quantised
    return float(torch.linalg.vector_norm(whole, dtype=wide))


def _named(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5])


def _frozen(module: nn.Module) -> list[RemovableHandle]:
    """Put a layer in eval mode for the time of each call."""
    modes: list[bool] = []

    def before(module: nn.Module, args: Any) -> None:
        modes.append(module.training)
        module.training = False

    def after(module: nn.Module, args: Any, output: Any) -> None:
        module.training = modes.pop()

    return [
        module.register_forward_pre_hook(before, prepend=True),  # ahead of spectral norm's own
        module.register_forward_hook(after, always_call=True),
    ]

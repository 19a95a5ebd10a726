"""State of Avalanche's own strategies and plugins as plain tensors, so that their runs resume at a task boundary.

Avalanche's ``save_checkpoint`` pickles whole strategies and fails on optimizers. Here the attributes that
:data:`~ong.experiments.avalanche_kept.KEPT` names are written as tensors and plain values, and read again. A plugin of
another origin is resumable when it has ``state_dict`` and ``load_state_dict``.
"""

from __future__ import annotations

import copy
import io
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    ConstantSequence,
    DataAttribute,
    TaskLabels,
    concat_datasets,
)
from avalanche.benchmarks.utils.data_attribute import TensorDataAttribute
from avalanche.benchmarks.utils.flat_data import FlatData
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.storage_policy import (
    ClassBalancedBuffer,
    ExemplarsBuffer,
    ExperienceBalancedBuffer,
    ReservoirSamplingBuffer,
)
from avalanche.training.supervised.der import ClassBalancedBufferWithLogits
from avalanche.training.utils import ParamData
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

from ong.experiments.avalanche_kept import KEPT, Kept
from ong.methods.packing import pack_nested, packed_bytes, unpack_nested
from ong.streams.experiences.items import InMemoryDataset

__all__ = [
    "bytes_kept",
    "bytes_of_examples",
    "fits_a_checkpoint",
    "get_model_state",
    "get_state",
    "set_model_state",
    "set_state",
]

State = dict[str, Any]

_MORE = "of the run alone"
_SOME = 1000  # examples that tell what each of many takes
_BUFFERS: dict[str, type[ExemplarsBuffer]] = {
    kind.__name__: kind
    for kind in (
        ClassBalancedBuffer,
        ClassBalancedBufferWithLogits,
        ExperienceBalancedBuffer,
        ReservoirSamplingBuffer,
    )
}


def _pack_examples(dataset: Any) -> Any:
    return pack_nested(default_collate([dataset[i] for i in range(len(dataset))])) if len(dataset) else []


def _unpack_examples(packed: Any) -> Any:
    if not packed:
        return concat_datasets([])
    x, y, labels, *logits = unpack_nested(packed)
    one = bool((labels == labels[0]).all())  # Avalanche can join constant sequences with each other, but not with lists
    task_labels = ConstantSequence(int(labels[0]), len(labels)) if one else labels.tolist()
    attributes = [DataAttribute(y.tolist(), "targets"), TaskLabels(task_labels)]
    for rows in logits:
        attributes.append(TensorDataAttribute(FlatData([list(rows)]), name="logits", use_in_getitem=True))
    return InMemoryDataset([TensorDataset(x, y)], data_attributes=attributes)


def bytes_of_examples(dataset: Any) -> int:
    """Return the bytes that a data set's examples take, packed, as told by some of them."""
    some = min(len(dataset), _SOME)
    parts = pack_nested(default_collate([dataset[i] for i in range(some)])) if some else []
    return sum(len(dataset) * packed_bytes(part.get("codes", part.get("values"))) // some for part in parts)


def _plain(value: Any) -> Any:
    """Return a value as tensors, plain values and dictionaries with a key ``is`` that names what they were.

    Raises:
        TypeError: something else.
    """
    if isinstance(value, ParamData):
        return {"is": "parameter", "name": value.name, "tensor": value.data}
    if isinstance(value, ExemplarsBuffer):
        if type(value).__name__ not in _BUFFERS:
            raise TypeError(f"a {type(value).__name__}")
        return {"is": "buffer", "kind": type(value).__name__, "holds": _plain(vars(value))}
    if isinstance(value, AvalancheDataset):
        return {"is": "examples", "columns": _pack_examples(value)}
    if isinstance(value, nn.Module):
        return {"is": "network", "weights": value.state_dict()}
    if isinstance(value, np.ndarray):
        return {"is": "array", "tensor": torch.from_numpy(value)}
    if isinstance(value, set):
        return {"is": "set", "of": sorted(value)}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return parts if isinstance(value, list) else {"is": "tuple", "of": parts}
    if value is None or isinstance(value, Tensor | bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__}")


def _made(plain: Any, strategy: Any) -> Any:
    """Return what :func:`_plain` was given; networks are copies of the strategy's with other weights."""
    if isinstance(plain, list):
        return [_made(part, strategy) for part in plain]
    if not isinstance(plain, dict):
        return plain
    match plain.get("is"):
        case "parameter":
            return ParamData(plain["name"], init_tensor=plain["tensor"], device=plain["tensor"].device)
        case "buffer":
            kind = _BUFFERS[plain["kind"]]
            buffer = object.__new__(kind)
            vars(buffer).update(_made(plain["holds"], strategy))
            return buffer
        case "examples":
            return _unpack_examples(plain["columns"])
        case "network":
            network = copy.deepcopy(strategy.model)
            network.load_state_dict(plain["weights"])
            return network
        case "array":
            return plain["tensor"].numpy()
        case "set":
            return set(plain["of"])
        case "tuple":
            return tuple(_made(part, strategy) for part in plain["of"])
    return {key: _made(part, strategy) for key, part in plain.items()}


def _kept(part: Any) -> Kept | None:
    return KEPT[EvaluationPlugin] if isinstance(part, EvaluationPlugin) else KEPT.get(type(part))


def bytes_kept(part: Any) -> int | None:
    """Return the bytes that a strategy or plugin keeps from task to task, None where they cannot be told."""
    try:
        return packed_bytes({name: kept for name, kept in get_state(part).items() if name != _MORE})
    except (AttributeError, TypeError):
        return None


def fits_a_checkpoint(part: Any) -> bool:
    """Return whether the state of a strategy or plugin can be saved, and read again without running code of the file's.

    What is read again must also be all that decides how the run goes on.
    """
    kept = _kept(part)
    if (kept is not None and not kept.is_all) or (kept is None and not hasattr(part, "load_state_dict")):
        return False
    buffer = io.BytesIO()
    try:
        torch.save(get_state(part), buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:
        return False
    return True


def get_state(part: Any) -> State:
    """Return what a strategy or plugin keeps from task to task.

    Raises:
        AttributeError: one of another origin without a ``state_dict``.
        TypeError: it keeps something that cannot be written as tensors and plain values.
    """
    kept = _kept(part)
    if kept is None:
        own: State = part.state_dict()
        return own
    state = {name: _plain(attrgetter(name)(part)) for name in kept.names}
    state |= {name: pack_nested(_plain(attrgetter(name)(part))) for name in kept.inputs}
    return state | {_MORE: kept.more(part)}


def set_state(part: Any, state: State, strategy: Any) -> None:
    """Give a freshly built strategy or plugin the state that :func:`get_state` returned."""
    kept = _kept(part)
    if kept is None:
        part.load_state_dict(state)
        return
    for name in (*kept.names, *kept.inputs):
        path, _, last = name.rpartition(".")
        owner = attrgetter(path)(part) if path else part
        plain = state[name] if name in kept.names else unpack_nested(state[name])
        old = getattr(owner, last, None)
        if isinstance(old, nn.Module):
            old.load_state_dict(plain["weights"])
            continue
        value = _made(plain, strategy)
        if isinstance(old, dict) and isinstance(value, dict):  # others may hold it, and it may have a default
            old.clear()
            old.update(value)
        else:
            setattr(owner, last, value)
    kept.restored(part, strategy, state[_MORE])


def get_model_state(model: nn.Module) -> State:
    """Return a network's weights, and what those of its modules keep beside that Avalanche's plugins fill."""
    beside = {name: get_state(module) for name, module in model.named_modules() if type(module) in KEPT}
    return {"weights": model.state_dict(), "beside": beside}


def set_model_state(model: nn.Module, state: State) -> None:
    """Give a network the state that :func:`get_model_state` returned."""
    for name, kept in state["beside"].items():
        set_state(model.get_submodule(name), kept, None)
    model.load_state_dict(state["weights"])

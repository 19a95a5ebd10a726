"""State of Avalanche's own plugins as plain tensors, so that a run with them can resume at a task boundary.

Avalanche's ``save_checkpoint`` pickles whole strategies and fails on optimizers; these functions read and write what
each plugin keeps from task to task. A plugin of another origin is resumable when it has ``state_dict`` and
``load_state_dict``.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from avalanche.benchmarks.utils import (
    ConstantSequence,
    DataAttribute,
    TaskLabels,
)
from avalanche.benchmarks.utils.data_loader import GroupBalancedInfiniteDataLoader
from avalanche.training.plugins import (
    AGEMPlugin,
    EvaluationPlugin,
    EWCPlugin,
    FromScratchTrainingPlugin,
    GEMPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.plugins.clock import Clock
from avalanche.training.storage_policy import ExperienceBalancedBuffer, ReservoirSamplingBuffer
from avalanche.training.templates.base_sgd import PeriodicEval
from avalanche.training.utils import ParamData
from torch.utils.data import TensorDataset, default_collate

from ong.streams.items import InMemoryDataset

__all__ = ["fits_a_checkpoint", "get_state", "is_resumable", "set_state"]

State = dict[str, Any]


def _pack(values: Any) -> Any:
    """Replace ParamData by their tensors, in nested dictionaries."""
    if isinstance(values, ParamData):
        return {"name": values.name, "tensor": values.data}
    return {key: _pack(value) for key, value in values.items()}


def _unpack(values: Any) -> Any:
    if set(values) == {"name", "tensor"}:
        return ParamData(values["name"], init_tensor=values["tensor"], device=values["tensor"].device)
    return {key: _unpack(value) for key, value in values.items()}


def _pack_examples(dataset: Any) -> list[torch.Tensor]:
    return list(default_collate([dataset[i] for i in range(len(dataset))])) if len(dataset) else []


def _unpack_examples(tensors: list[torch.Tensor]) -> Any:
    x, y, labels = tensors
    one = bool((labels == labels[0]).all())  # Avalanche can join constant sequences with each other, but not with lists
    task_labels = ConstantSequence(int(labels[0]), len(labels)) if one else labels.tolist()
    attributes = [DataAttribute(y.tolist(), "targets"), TaskLabels(task_labels)]
    return InMemoryDataset([TensorDataset(x, y)], data_attributes=attributes)


def _get_ewc(plugin: Any) -> State:
    return {"saved_params": _pack(plugin.saved_params), "importances": _pack(plugin.importances)}


def _set_ewc(plugin: Any, state: State, strategy: Any) -> None:
    plugin.saved_params.update(_unpack(state["saved_params"]))
    plugin.importances.update(_unpack(state["importances"]))


def _get_si(plugin: Any) -> State:
    return {"ewc": [_pack(part) for part in plugin.ewc_data], "syn": _pack(plugin.syn_data)}


def _set_si(plugin: Any, state: State, strategy: Any) -> None:
    plugin.ewc_data = tuple(_unpack(part) for part in state["ewc"])
    plugin.syn_data = _unpack(state["syn"])


def _get_lwf(plugin: Any) -> State:
    lwf = plugin.lwf
    return {
        "count": lwf.expcount,
        "teacher": lwf.prev_model.state_dict() if lwf.prev_model is not None else None,
        "classes": {task: sorted(classes) for task, classes in lwf.prev_classes_by_task.items()},
    }


def _set_lwf(plugin: Any, state: State, strategy: Any) -> None:
    lwf = plugin.lwf
    lwf.expcount = state["count"]
    lwf.prev_classes_by_task.update({task: set(classes) for task, classes in state["classes"].items()})
    if state["teacher"] is not None:
        lwf.prev_model = copy.deepcopy(strategy.model)
        lwf.prev_model.load_state_dict(state["teacher"])


def _get_replay(plugin: Any) -> State:
    policy = plugin.storage_policy
    return {
        "count": policy._num_exps,
        "groups": {
            key: {
                "size": group.max_size,
                "weights": group._buffer_weights,
                "examples": _pack_examples(group.buffer),
            }
            for key, group in policy.buffer_groups.items()
        },
    }


def _set_replay(plugin: Any, state: State, strategy: Any) -> None:
    policy = plugin.storage_policy
    policy._num_exps = state["count"]
    for key, kept in state["groups"].items():
        group = ReservoirSamplingBuffer(kept["size"])
        group.buffer, group._buffer_weights = _unpack_examples(kept["examples"]), kept["weights"]
        policy.buffer_groups[key] = group


def _get_agem(plugin: Any) -> State:
    return {"buffers": [_pack_examples(buffer) for buffer in plugin.buffers]}


def _set_agem(plugin: Any, state: State, strategy: Any) -> None:
    plugin.buffers = [_unpack_examples(tensors) for tensors in state["buffers"]]
    if plugin.buffers:  # as A-GEM builds it at the end of a task
        plugin.buffer_dataloader = GroupBalancedInfiniteDataLoader(
            plugin.buffers,
            batch_size=plugin.sample_size // len(plugin.buffers),
            num_workers=0,
            pin_memory=False,
            persistent_workers=False,
        )
        plugin.buffer_dliter = iter(plugin.buffer_dataloader)


def _get_gem(plugin: Any) -> State:
    return {"x": dict(plugin.memory_x), "y": dict(plugin.memory_y), "tid": dict(plugin.memory_tid)}


def _set_gem(plugin: Any, state: State, strategy: Any) -> None:
    plugin.memory_x, plugin.memory_y, plugin.memory_tid = state["x"], state["y"], state["tid"]


def _get_scratch(plugin: Any) -> State:
    return {"initial_weights": dict(plugin.initial_weights) if plugin.initial_weights is not None else None}


def _set_scratch(plugin: Any, state: State, strategy: Any) -> None:
    plugin.initial_weights = state["initial_weights"]


def _get_clock(plugin: Any) -> State:
    return {key: value for key, value in vars(plugin).items() if isinstance(value, int)}


def _set_clock(plugin: Any, state: State, strategy: Any) -> None:
    vars(plugin).update(state)


def _get_nothing(plugin: Any) -> State:
    return {}


def _set_nothing(plugin: Any, state: State, strategy: Any) -> None:
    return


_KNOWN: dict[type, tuple[Callable[[Any], State], Callable[[Any, State, Any], None]]] = {
    EWCPlugin: (_get_ewc, _set_ewc),
    SynapticIntelligencePlugin: (_get_si, _set_si),
    LwFPlugin: (_get_lwf, _set_lwf),
    ReplayPlugin: (_get_replay, _set_replay),
    AGEMPlugin: (_get_agem, _set_agem),
    GEMPlugin: (_get_gem, _set_gem),
    FromScratchTrainingPlugin: (_get_scratch, _set_scratch),
    Clock: (_get_clock, _set_clock),
    EvaluationPlugin: (_get_nothing, _set_nothing),
    PeriodicEval: (_get_nothing, _set_nothing),
}


def _known(plugin: Any) -> tuple[Callable[[Any], State], Callable[[Any, State, Any], None]] | None:
    return _KNOWN[EvaluationPlugin] if isinstance(plugin, EvaluationPlugin) else _KNOWN.get(type(plugin))


def is_resumable(plugin: Any) -> bool:
    """Return whether a plugin's state can be saved at a task boundary."""
    if isinstance(plugin, ReplayPlugin) and not isinstance(plugin.storage_policy, ExperienceBalancedBuffer):
        return False
    return _known(plugin) is not None or (hasattr(plugin, "state_dict") and hasattr(plugin, "load_state_dict"))


def fits_a_checkpoint(plugin: Any) -> bool:
    """Return whether a plugin's state can be saved, and read again without running code of the file's."""
    if not is_resumable(plugin):
        return False
    buffer = io.BytesIO()
    try:
        torch.save(get_state(plugin), buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except Exception:
        return False
    return True


def get_state(plugin: Any) -> State:
    """Return what a plugin keeps from task to task."""
    known = _known(plugin)
    if known is not None:
        return known[0](plugin)
    state: State = plugin.state_dict()
    return state


def set_state(plugin: Any, state: State, strategy: Any) -> None:
    """Give a freshly built plugin the state that :func:`get_state` returned."""
    known = _known(plugin)
    if known is not None:
        known[1](plugin, state, strategy)
    else:
        plugin.load_state_dict(state)

"""What a recipe says it needs, against what is found in the state of its method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ong.experiments.plan import plan
from ong.experiments.progress import Silent
from ong.experiments.recipes import list_recipes, load_strategy
from ong.methods.packing import unpack
from ong.plugins import MethodPlugin

RECIPES = [load_strategy(name) for name in list_recipes("strategies")]
OURS = [
    recipe.name
    for recipe in RECIPES
    if any(plugin.use.startswith("ong.") for plugin in recipe.plugins) and "all tasks at once" not in recipe.needs
]
ALIKE = 1 - 1e-6  # the cosine of an input with itself; two of these digits have at most .989


def opened(state: Any) -> Any:
    """Return a state with what is packed in it unpacked, in however many layers."""
    if isinstance(state, list | tuple):
        return [opened(part) for part in state]
    if not isinstance(state, dict):
        return state
    parts = {key: opened(part) for key, part in state.items()}
    packed = any(isinstance(parts.get(key), Tensor) for key in ("codes", "half", "values"))
    return unpack(parts) if packed else parts


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)


def found(inputs: Tensor, kept: Tensor) -> bool:
    """Whether a row or column of a tensor is one of the inputs, up to a factor; a last 1 for the bias is passed over."""
    width = inputs.shape[1]
    for matrix in (kept, kept.mT, kept.flatten(1)) if kept.ndim >= 2 else ():
        if matrix.shape[-1] not in (width, width + 1):
            continue
        rows = torch.nn.functional.normalize(matrix.reshape(-1, matrix.shape[-1])[:, :width].double(), dim=1)
        if bool((rows @ torch.nn.functional.normalize(inputs, dim=1).T).abs().max() > ALIKE):
            return True
    return False


@pytest.mark.parametrize("name", OURS)
def test_a_recipe_whose_method_keeps_inputs_of_examples_says_so(name: str, tmp_path: Path) -> None:
    (job,) = plan("permuted-digits", [name], [0], {"training.epochs": 1, "stream.tasks": 1}, out=tmp_path)
    run: Any = job.run()
    method = next(plugin for plugin in run.plugins if isinstance(plugin, MethodPlugin))
    job.folder.prepare()
    run.run(job.folder, Silent())
    dataset = run.stream.train_stream[0].dataset
    inputs = torch.stack([dataset[i][0].flatten() for i in range(len(dataset))]).double()
    holds = any(found(inputs, tensor) for tensor in tensors(opened(method.state_dict())))
    assert holds == any(need in ("stored inputs", "stored examples") for need in job.strategy.needs)

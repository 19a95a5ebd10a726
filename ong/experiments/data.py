"""From a recipe's ``dataset`` to images, and from its ``stream`` to tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ong.errors import UserError
from ong.experiments.build import resolve
from ong.experiments.options import check_options
from ong.experiments.schema import DatasetRecipe, StreamRecipe
from ong.extensions import description_of
from ong.streams import ImageDataset, build_stream, from_items
from ong.streams import load_dataset as load_by_name
from ong.streams.datasets import checked_channels, checked_size
from ong.streams.registry import DatasetEntry, StreamEntry

__all__ = ["load_dataset", "make_stream"]

_PARTS = ("train", "test")
_TAKEN = ("train", "test", "size", "channels", "classes")  # which are not passed on as they are
Recipe = str | DatasetRecipe


def load_dataset(recipe: Recipe | list[Recipe], data_root: str | Path | None = None) -> Any:
    """Load the data set that a recipe names, or the list of data sets.

    ``use`` names a class of map-style data sets (``len(data)``; ``data[i]`` is image and label), as torchvision's are,
    or a function that returns one. It is called twice, with ``train = True`` and ``False`` where it has a parameter
    ``train``, with ``split = "train"`` and ``"test"`` where it has ``split``; the tables ``train`` and ``test`` of the
    recipe are options of one part alone. Where it has them, ``root`` is the data root, and ``download`` is true if
    there is a data root. A function without such parameters returns an :class:`ong.streams.ImageDataset`, and so does
    one under :func:`ong.streams.dataset`, which is called as those of the package are.

    Args:
        recipe: the benchmark's ``dataset``.
        data_root: where data sets lie.

    Returns:
        An :class:`ong.streams.ImageDataset`, a list of them for a list.

    Raises:
        UserError: an unknown name or option, data that are missing, or images and labels that are none.
    """
    if isinstance(recipe, list):
        return [load_dataset(one, data_root) for one in recipe]
    if isinstance(recipe, str):
        return load_by_name(recipe, data_root)
    if (recipe.name is None) == (recipe.use is None):
        raise UserError("dataset: give either 'name' (a built-in data set) or 'use' ('module:Class')")
    if recipe.name is not None:
        return load_by_name(recipe.name, data_root, **recipe.options)
    return _used(recipe, None if data_root is None else Path(data_root).expanduser())


def make_stream(recipe: StreamRecipe, dataset: Any, seed: int) -> Any:
    """Build the stream that a recipe names.

    ``use`` names a function that takes the images (a list where the recipe has a list of data sets), ``seed`` where it
    has such a parameter, and the recipe's options by keyword; :func:`ong.streams.benchmark_from_tensors` makes what it
    returns.

    Args:
        recipe: the benchmark's ``stream``.
        dataset: the images, or a list.
        seed: the run's.

    Raises:
        UserError: an unknown name or option, a value that the builder refuses, or no stream of tasks.
    """
    if (recipe.name is None) == (recipe.use is None):
        raise UserError("stream: give either 'name' (a built-in stream) or 'use' ('module:Name')")
    if recipe.name is not None:
        return build_stream(recipe.name, dataset, seed, **recipe.options)
    assert recipe.use is not None
    build = resolve(recipe.use, object, "stream", functions=True)
    entry = description_of(build, StreamEntry)
    if entry is None:
        entry = StreamEntry(recipe.use.rpartition(":")[2], "", build, several=isinstance(dataset, list))
    check_options(build, recipe.options, f"stream {entry.name}", entry.options)
    try:
        made = build_stream(entry, dataset, seed, **recipe.options)
        tasks = [len(stream) for stream in (made.train_stream, made.test_stream)]
        classes = [experience.classes_in_this_experience for experience in made.train_stream]
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise UserError(
            f"stream {entry.name}: {error}; it must return what ong.streams.benchmark_from_tensors makes"
        ) from error
    if len(set(tasks)) > 1 or not classes:
        raise UserError(f"stream {entry.name}: {tasks[0]} training and {tasks[1]} test tasks, expected as many of both")
    return made


def _used(recipe: DatasetRecipe, data_root: Path | None) -> ImageDataset:
    assert recipe.use is not None
    make = resolve(recipe.use, object, "dataset", functions=True)
    if (entry := description_of(make, DatasetEntry)) is not None:
        return load_by_name(entry, data_root, **recipe.options)
    what, parameters = f"dataset {recipe.label}", inspect.signature(make).parameters
    given = recipe.options
    size, channels = checked_size(given.get("size")), checked_channels(given.get("channels"))
    parts = [given.get(part, {}) for part in _PARTS]
    for part, options in zip(_PARTS, parts, strict=True):
        if not isinstance(options, dict):
            raise UserError(f"{what}: '{part}' must be a table, the options of that part alone, got {options!r}")
    shared = {name: value for name, value in given.items() if name not in _TAKEN or name in parameters}
    shared = {name: value for name, value in shared.items() if name not in _PARTS}
    found: dict[str, Any] = {}
    if data_root is not None:
        found = {name: value for name, value in (("root", str(data_root)), ("download", True)) if name in parameters}
    if "train" in parameters:
        which: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    elif "split" in parameters:
        which = [{"split": "train"}, {"split": "test"}]
    elif any(parts):
        which = [{}, {}]
    else:
        made = _called(make, what, found | shared, shared)
        if not isinstance(made, ImageDataset):
            raise UserError(
                f"{what}: '{recipe.use}' has neither a parameter 'train' nor 'split', and is no "
                "ong.streams.ImageDataset; say how its parts are made: train = { … } and test = { … }"
            )
        return made.fitted(size, channels)
    train, test = (
        _called(make, what, found | part | shared | own, shared | own) for part, own in zip(which, parts, strict=True)
    )
    classes = given.get("classes")
    source = str(data_root) if "root" in found else recipe.use
    return from_items(recipe.label, train, test, source, size=size, channels=channels, classes=classes)


def _called(make: Callable[..., Any], what: str, options: dict[str, Any], checked: dict[str, Any]) -> Any:
    """Return a data set, its options checked by name and type."""
    check_options(make, checked, what)
    try:
        return make(**options)
    except UserError:
        raise
    except (TypeError, ValueError, AssertionError, OSError, RuntimeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what}: {why}") from None

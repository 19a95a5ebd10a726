"""Data sets and streams by name: each is a function in a file of this folder, under a decorator of this one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

from ong.errors import UnknownNameError, UserError
from ong.extensions import Extensions, marked
from ong.streams.blur import blurred
from ong.streams.images import ImageDataset

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

__all__ = [
    "DATASETS",
    "STREAMS",
    "DatasetEntry",
    "StreamEntry",
    "build_stream",
    "check_seed",
    "dataset",
    "stream",
    "whole_number",
]

L = TypeVar("L", bound=Callable[..., ImageDataset])
B = TypeVar("B", bound="Callable[..., CLScenario]")


@dataclass(frozen=True)
class DatasetEntry:
    """What ``ong list`` prints of a data set, and how it is read.

    Attributes:
        name: In recipes.
        description: One line for people.
        load: Takes ``(data_root, download)`` and keyword-only options of its own, returns the data set.
    """

    name: str
    description: str
    load: Callable[..., ImageDataset]

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that a recipe may set: its own, and those of all data sets."""
        parameters = inspect.signature(self.load).parameters.values()
        own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        return tuple(dict.fromkeys([*own, "size", "channels"]))


@dataclass(frozen=True)
class StreamEntry:
    """What ``ong list`` prints of a stream, and how it is built.

    Attributes:
        name: In recipes.
        description: One line for people.
        build: Takes the data set, and keyword-only options, among them ``seed`` when the stream is random.
        several: Whether it takes a list of data sets.
    """

    name: str
    description: str
    build: Callable[..., CLScenario]
    several: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that a recipe may set; ``seed`` is not one, as a run sets it."""
        parameters = inspect.signature(self.build).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed")

    @property
    def seeded(self) -> bool:
        """Whether the stream depends on a seed."""
        return "seed" in inspect.signature(self.build).parameters


def whole_number(what: str, value: object, least: int) -> int:
    """Return ``value`` when it is an integer, NumPy's too, of at least ``least``; raise ``UserError`` otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise UserError(f"{what} is {value!r}, expected a whole number of at least {least}")
    return int(value)


def check_seed(value: object) -> int:
    """Return a seed from 0 to 2⁶³ − 1; raise ``UserError`` otherwise."""
    seed = whole_number("seed", value, 0)
    if seed >= 2**63:
        raise UserError(f"seed is {seed}, expected less than 2**63")
    return seed


def dataset(name: str, description: str) -> Callable[[L], L]:
    """Make a function a data set that recipes can name; the function itself stays as it is.

    Args:
        name: In recipes.
        description: One line for people.
    """
    return lambda load: marked(load, DatasetEntry(name, description, load))


def stream(name: str, description: str, *, several: bool = False) -> Callable[[B], B]:
    """Make a function a stream that recipes can name; the function itself stays as it is.

    Args:
        name: In recipes.
        description: One line for people.
        several: Whether it takes a list of data sets.
    """
    return lambda build: marked(build, StreamEntry(name, description, build, several))


DATASETS = Extensions(
    DatasetEntry, "data set", "ong.streams", "ong.datasets", by="ong.streams.dataset", first="datasets"
)
"""The data sets that :func:`ong.streams.load_dataset` knows, by name."""

STREAMS = Extensions(StreamEntry, "stream", "ong.streams", "ong.streams", by="ong.streams.stream")
"""The streams that :func:`build_stream` knows, by name."""


def build_stream(
    name: str | StreamEntry, dataset: ImageDataset | list[ImageDataset], seed: int, **options: Any
) -> CLScenario:
    """Build a stream by name, as a benchmark recipe's ``stream`` table describes it.

    Args:
        name: A key of :data:`STREAMS`, or an entry that is not among them.
        dataset: The images; a list of data sets for a stream that takes several (``sequence``).
        seed: The run's seed; a stream without randomness (``rotated``) does not depend on it.
        options: The stream's own options, see its builder; and ``blur``, see :func:`ong.streams.blur.blurred`.

    Returns:
        An Avalanche benchmark with ``train_stream`` and ``test_stream``.

    Raises:
        UnknownNameError: No stream, or no option of it, has that name.
        UserError: An option is out of range, or one data set is given for several or the reverse.
    """
    if isinstance(name, str) and name not in STREAMS:
        raise UnknownNameError("stream", name, STREAMS)
    entry = STREAMS[name] if isinstance(name, str) else name
    if entry.several != isinstance(dataset, list):
        raise UserError(
            f"stream '{entry.name}' takes {'a list of data sets' if entry.several else 'one data set'}, "
            f"got {'a list' if isinstance(dataset, list) else 'one'}"
        )
    known = (*entry.options, "blur")
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of stream '{entry.name}'", option, known)
    seed, blur = check_seed(seed), options.pop("blur", 0)
    made = entry.build(dataset, **({"seed": seed} if entry.seeded else {}), **options)
    return made if blur == 0 and not isinstance(blur, bool) else blurred(made, blur, seed)

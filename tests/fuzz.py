"""Inputs changed at random, and what may become of them: a clear error, or nothing."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ong.errors import UserError

EXAMPLES = [pytest.param(500, id="500"), pytest.param(10_000, id="10000", marks=pytest.mark.nightly)]

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63) - 1, 10**9, 10**5, 10**400, 0, -1]),
    st.floats(),
    st.sampled_from([float("nan"), float("inf"), 5e-324, 1e-40, 1e39, -0.0]),
    st.text(max_size=8),
    st.sampled_from(
        ["²", "[x]", "\x1b[31m", "\ud800", "", "a" * 5000, "torch.optim:SGD", "ong.plugins:OGD", "os:system"]
    ),
    st.lists(st.integers(-2, 9) | st.floats() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["use", "name", "lr", "kind"]), st.text(max_size=3) | st.integers(), max_size=2),
)


@st.composite
def changed(draw: Callable[[Any], Any], originals: list[Any]) -> Any:
    """A structure with one to three of its parts replaced, left out or added."""
    made = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        place = made
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            if draw(st.integers(0, 3)):
                place[key] = draw(ODD)
            else:
                del place[key]
            break
        if isinstance(place, dict) and not draw(st.integers(0, 4)):
            place[draw(st.text(max_size=5))] = draw(ODD)
    return made


@st.composite
def scrambled(draw: Callable[[Any], Any], originals: list[str]) -> str:
    """A text with some of its characters replaced, left out or added."""
    text = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(st.text(max_size=4)) + text[start + draw(st.integers(0, 12)) :]
    return text


@st.composite
def damaged(draw: Callable[[Any], Any], originals: list[bytes]) -> bytes:
    """The content of a file with some of its bytes replaced, left out or added."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)) | st.integers(0, min(len(content), 64)))  # headers more often
        content = content[:start] + draw(st.binary(max_size=8)) + content[start + draw(st.integers(0, 8)) :]
    return content


@contextmanager
def little_memory() -> Iterator[None]:
    """Let this process have 4 GB more and not what an input claims to need: a MemoryError is no clear error."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (4 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def tried(count: int, inputs: st.SearchStrategy[Any], use: Callable[[Any], object]) -> None:
    """Use inputs, which may be refused with a ``UserError`` of one line that can be printed, and in no other way."""
    refused, lengths = 0, set[int]()

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(inputs)
    def once(given_: Any) -> None:
        nonlocal refused
        try:
            use(given_)
        except UserError as error:
            refused += 1
            lengths.add(len(str(error)))

    with little_memory():
        once()
    assert min(lengths) > 10
    assert max(lengths) < 3000
    assert refused > count / 20  # or the inputs would show nothing

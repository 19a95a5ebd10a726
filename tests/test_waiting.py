"""A bar over what lets one wait: on a terminal, after some seconds, and gone at the end."""

from __future__ import annotations

import io
import sys

import pytest

from ong import waiting as module
from ong.waiting import waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "seconds", "shown"), [(Terminal(), 0, True), (Terminal(), 60, False), (io.StringIO(), 0, False)]
)
def test_it_shows_on_a_terminal_once_it_lasts(
    stream: io.StringIO, seconds: int, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "_SECONDS", seconds)
    assert list(waiting(iter("abc"), "  spelling", 3)) == ["a", "b", "c"]
    assert ("spelling" in stream.getvalue()) == shown
    assert stream.getvalue().split("\r")[-1].strip() == ""

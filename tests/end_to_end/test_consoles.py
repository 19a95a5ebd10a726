"""On a console whose encoding lacks some characters, the command line still prints its tables."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ong.cli import main

Console = Callable[..., str]
RECORD = Path(__file__).parents[2] / "results" / "permuted-mnist" / "ncl" / "seed-0"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Return a function that runs ``ong`` on a console of an encoding and returns what it prints."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(encoding: str, *arguments: str) -> str:
        console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)  # strict, as Python opens it
        monkeypatch.setattr(sys, "stdout", console)
        monkeypatch.setattr(sys, "argv", ["ong", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert not exit_.value.code
        console.flush()
        return console.buffer.getvalue().decode(encoding)

    return run


def names(listing: str) -> list[str]:
    """Return the first words of the lines of ``ong list``, without those of lines that continue a summary."""
    return [line.split()[0] for line in listing.splitlines() if line.strip() and not line.startswith(" ")]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_list_prints_every_line_though_letters_are_lacking(printed: Console, encoding: str) -> None:
    listing, whole = printed(encoding, "list"), printed("utf-8", "list")
    assert names(listing) == names(whole)
    with pytest.raises(UnicodeEncodeError):  # or the test would show nothing
        whole.encode(encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_show_keeps_the_sign_of_negative_numbers(printed: Console, encoding: str) -> None:
    transfer = json.loads((RECORD / "record.json").read_text())["metrics"]["BWT"]
    assert transfer < 0
    assert f" {transfer:.4f} " in printed(encoding, "show", str(RECORD))
    assert f" −{-transfer:.4f} " in printed("utf-8", "show", str(RECORD))


@pytest.mark.parametrize(
    ("encoding", "arguments", "shown"),
    [("cp1252", ["list"], "Natural gradient"), ("ascii", ["show", str(RECORD)], "R[T-1, j]")],
)
def test_a_program_of_its_own_prints_so_too(encoding: str, arguments: list[str], shown: str) -> None:
    code = "from ong.cli import main; main()"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode(encoding, "replace")
    assert shown in done.stdout.decode(encoding)

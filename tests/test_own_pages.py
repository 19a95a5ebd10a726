"""What docs/own shows works as it stands there: files are written, commands run, and what is printed is seen."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from ong.cli import main

PAGES = sorted((Path(__file__).parents[1] / "docs" / "own").glob("*.md"))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all pages: runs that two of them make are finished in the second."""
    return tmp_path_factory.mktemp("own")


@pytest.fixture
def at_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("COLUMNS", "200")


def command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [*shlex.split(line), *(["--jobs", "1"] if line.startswith("ong run") else [])])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, line


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"\S+", text) if not re.search(r"\d\.\d|^\d", word)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_starts_from_an_empty_file_and_ends_with_the_thing_seen(
    page: Path, at_work: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    seen = 0
    for language, block in re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        file = re.match(r"# ([\w-]+\.(?:py|toml))\n", block)
        if file:
            Path(file[1]).write_text(block, encoding="utf-8")
        elif language == "python":
            exec(compile(block, str(page), "exec"), names)
        elif block.startswith("ong "):
            for line in block.splitlines():
                command(line, monkeypatch)
        else:  # what the blocks before it print
            printed = capsys.readouterr().out.split()
            assert [word for word in words(block) if not any(word in part for part in printed)] == []
            seen += 1
    assert seen


def test_there_is_a_page_of_each_kind() -> None:
    kinds = {"data-set", "diagnostic", "layer", "method", "metric", "model", "report", "strategy", "stream"}
    assert kinds <= {page.stem for page in PAGES}
    for page in PAGES:
        assert max(map(len, page.read_text(encoding="utf-8").splitlines())) <= 120

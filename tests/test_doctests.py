"""The examples in docstrings run, and print what stands below them."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"lightning", "transformers"}
"""Names of modules that need the package of the same name."""


def modules() -> list[str]:
    """Name the modules that have an example."""
    paths = sorted((ROOT / "ong").rglob("*.py"))
    names = [path for path in paths if ">>> " in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in names]


@pytest.mark.parametrize("name", modules())
def test_examples_print_what_they_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    last = name.rpartition(".")[2]
    if last in PACKAGES:
        pytest.importorskip(last)
    monkeypatch.chdir(ROOT)  # examples load published records
    found = doctest.testmod(import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_no_example_is_skipped() -> None:
    marked = [
        path for path in (ROOT / "ong").rglob("*.py") if "doctest: +" + "SKIP" in path.read_text(encoding="utf-8")
    ]
    assert marked == []

"""Imports go one way: cli → experiments → {streams, plugins, natural} → projection → curvature."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ong"
MAY_IMPORT = {
    "threads": {"threads"},
    "curvature": {"curvature", "errors", "threads"},
    "projection": {"projection", "curvature", "errors", "threads"},
    "natural": {"natural", "projection", "curvature", "streams", "errors"},
    "streams": {"streams", "errors"},
    "plugins": {"plugins", "projection", "curvature", "streams", "errors"},
    "metrics": {"metrics", "errors"},
    "report": {"report", "metrics", "errors"},
    "experiments": {
        "experiments", "plugins", "natural", "streams", "projection", "curvature", "report", "metrics", "errors",
    },
}  # fmt: skip
WITHOUT_AVALANCHE = ("curvature", "projection", "natural", "metrics", "report")


def imports(part: str) -> set[str]:
    """Every module that the files of a part import, at whatever depth in them."""
    root = PACKAGE / part
    found: set[str] = set()
    for path in root.rglob("*.py") if root.is_dir() else [PACKAGE / f"{part}.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    assert found
    return found


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_lies_below_it(part: str) -> None:
    ours = {name.split(".")[1] for name in imports(part) if name.startswith("ong.")}
    assert ours <= MAY_IMPORT[part]


@pytest.mark.parametrize("part", WITHOUT_AVALANCHE)
def test_mathematics_and_reports_know_nothing_of_avalanche(part: str) -> None:
    assert not [name for name in imports(part) if name.split(".")[0] == "avalanche"]

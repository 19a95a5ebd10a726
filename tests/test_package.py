"""What is released: every package and data file is listed, and the version is one."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import ong

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
HOMES = {"ong": ROOT / "ong", "ong.benchmarks": ROOT / "benchmarks", "ong.strategies": ROOT / "strategies"}
FOLDERS = {
    ".".join((package, *folder.relative_to(home).parts)): folder
    for package, home in HOMES.items()
    for folder in (home, *(path for path in home.rglob("*") if path.is_dir() and path.name != "__pycache__"))
}


def test_the_packages_lie_where_setuptools_looks() -> None:
    assert {package: ROOT / place for package, place in SETUPTOOLS["package-dir"].items()} == HOMES


def test_every_folder_is_a_listed_package() -> None:
    assert SETUPTOOLS["packages"] == sorted(SETUPTOOLS["packages"])
    assert set(SETUPTOOLS["packages"]) == set(FOLDERS)


@pytest.mark.parametrize("package", FOLDERS)
def test_every_data_file_is_listed(package: str) -> None:
    listed = [glob for name, globs in SETUPTOOLS["package-data"].items() if name in ("*", package) for glob in globs]
    files = [path.name for path in FOLDERS[package].iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert [name for name in files if not any(fnmatch(name, glob) for glob in listed)] == []


def test_the_version_is_the_same_everywhere() -> None:
    files = {"CITATION.cff": r"^version: (\S+)$", "CHANGELOG.md": r"^## (\d\S*\d)"}  # the newest comes first
    found = [re.search(line, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE) for name, line in files.items()]
    assert {match and match[1] for match in found} | {PROJECT["project"]["version"]} == {ong.__version__}

"""An installed wheel in an empty folder behaves like the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys
sys.path = [p for p in sys.path if p and not p.endswith("main")]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", str(finder)).lower()]
sys.path.insert(0, sys.argv[1])
import ong
assert ong.__file__.startswith(sys.argv[1]), ong.__file__
import ong.strategies, ong.benchmarks
assert ong.strategies.__file__.startswith(sys.argv[1]), ong.strategies.__file__
from ong.cli import main
sys.argv = ["ong", *sys.argv[2:]]
main()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("ong-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed: Path, where: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", CODE, str(installed), *arguments]
    result = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_wheel_runs_and_reports_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    assert "ong-prior" in run(installed, tmp_path, "list")
    quick = ("--set", "training.epochs=1", "--set", "stream.tasks=2", "--jobs", "1")
    assert "naive" in run(installed, tmp_path, "run", "permuted-digits", "naive", *quick)
    assert "report.html" in run(installed, tmp_path, "report", "runs")


def test_the_wheel_holds_every_data_file_of_the_checkout(installed: Path) -> None:
    kinds = {".toml", ".npz", ".j2", ".css", ".typed"}
    homes = {
        "ong": ROOT / "ong",
        "ong/strategies": ROOT / "strategies",
        "ong/benchmarks": ROOT / "benchmarks",
    }
    for home, source in homes.items():
        for path in source.rglob("*"):
            if path.suffix in kinds:
                assert (installed / home / path.relative_to(source)).exists(), path


def test_the_embedded_digits_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    quick = ("--set", "training.epochs=1", "--set", "stream.tasks=1", "--jobs", "1")
    assert "naive" in run(installed, tmp_path, "run", "permuted-mnist", "naive", *quick)

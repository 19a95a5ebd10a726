"""What docs/results.md shows works as it says."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from fake_records import write_runs

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_runs(Path("runs"), ["naive", "ogd"], seeds=2, tasks=3)
    write_runs(Path("runs"), ["naive"], seeds=1, tasks=3, benchmark="split-mnist")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "results.md", "exec"), {})
    assert Path("curves.pdf").read_bytes().startswith(b"%PDF")
    assert Path("matrices.npz").is_file()


def test_the_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    from ong.cli import app

    write_runs(Path("runs"), ["naive", "ogd", "ong-prior"], seeds=2, tasks=3)
    blocks = re.findall(r"```\n(ong .*?)```", PAGE, re.DOTALL)
    commands = [
        shlex.split(line, comments=True) for block in blocks for line in block.replace("\\\n", " ").splitlines()
    ]
    assert len(commands) == 4
    for _, *arguments in commands:
        monkeypatch.setattr(sys, "argv", ["ong", *arguments])
        assert app(standalone_mode=False) in (None, 0)
    tex = Path("runs/permuted-mnist/report.tex").read_text()
    assert [name in tex for name in ("OGD (ours)", "ong-prior", "Memory", "Forgetting")] == [True, True, True, False]
    assert Path("runs/permuted-mnist/figures/accuracy.pdf").is_file()
    assert "Accuracy on task" in capsys.readouterr().out

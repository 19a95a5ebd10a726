"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", TEXT, flags=re.DOTALL)


def test_it_is_short_and_its_lines_fit() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


def test_there_is_an_example_for_a_loop_and_one_for_avalanche() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("number", range(2))
def test_python_examples_print_what_stands_below_them(number: int, tmp_path: Path) -> None:
    code, shown = EXAMPLES[number]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=one_thread
    )
    assert result.returncode == 0, result.stderr
    for line, printed in zip(shown.splitlines(), result.stdout.splitlines(), strict=True):
        name, *expected = line.split()
        found, *accuracies = printed.split()
        assert found == name
        for value, number_shown in zip(accuracies, expected, strict=True):  # other machines round otherwise
            assert float(value) == pytest.approx(float(number_shown), abs=0.02)

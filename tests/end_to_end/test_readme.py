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


@pytest.mark.slow
def test_the_examples_of_a_loop_and_of_avalanche_print_what_stands_below_them(tmp_path: Path) -> None:
    assert len(EXAMPLES) == 2
    code, shown = ("\n".join(parts) for parts in zip(*EXAMPLES, strict=True))  # the second goes on with the first
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=one_thread
    )
    assert result.returncode == 0, result.stderr
    wanted = [line for line in shown.splitlines() if line]
    for line, printed in zip(wanted, result.stdout.splitlines(), strict=True):
        name, *expected = line.split()
        found, *accuracies = printed.split()
        assert found == name
        rounding = 0.02 if name == "ONGPrior" else 0.06  # that of another processor moves the more what is forgotten
        assert [float(a) for a in accuracies] == pytest.approx([float(e) for e in expected], abs=rounding)

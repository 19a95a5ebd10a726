"""The scripts of docs/examples run in their tiny sizes, and print that less is forgotten than without a method."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NEEDS = {
    "resnet_on_split_cifar100.py": "torchvision",
    "bert_with_lora.py": "peft",
    "vit_by_lightning.py": "lightning",
}


def printed(script: str, tmp_path: Path) -> dict[str, list[float]]:
    """The numbers of each line that a script prints, by its first word."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / script), "--tiny"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=one_thread)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith(("naive", "ONGPrior"))]
    return {line.split()[0]: [float(n) for n in re.findall(r"-?\d\.\d{3}", line)] for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [pytest.param(s, marks=[pytest.mark.third_party] if n == "peft" else []) for s, n in NEEDS.items()]
)
def test_an_example_prints_that_less_is_forgotten_of_the_earlier_tasks(script: str, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS[script])
    found = printed(script, tmp_path)
    assert list(found) == ["naive", "ONGPrior"]
    if script.startswith("resnet"):  # when learned, at the end, forgotten
        assert found["ONGPrior"][1] > found["naive"][1]
        assert found["ONGPrior"][2] < found["naive"][2]
    else:  # each task, mean
        *tasks, _, _ = zip(found["naive"], found["ONGPrior"], strict=True)
        assert sum(ours for _, ours in tasks) > sum(plain for plain, _ in tasks)


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(NEEDS)

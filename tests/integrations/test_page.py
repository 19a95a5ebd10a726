"""What docs/loops.md shows runs, and says the truth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("transformers")

PAGE = Path(__file__).parents[2] / "docs" / "loops.md"


def test_examples_of_the_page_run_and_end_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    vectors = [torch.nn.utils.parameters_to_vector(names[n].parameters()) for n in ("plain", "avalanche", "net")]
    for vector in vectors[1:]:  # float32, 12 steps
        torch.testing.assert_close(vector, vectors[0], rtol=0, atol=1e-4)
    assert names["callback"].method.tasks == 2
    assert (tmp_path / "checkpoints" / "checkpoint-16" / "ong_method.pt").is_file()

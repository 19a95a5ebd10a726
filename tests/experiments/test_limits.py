"""Numbers that no run can compute with and sizes that no machine holds are refused before anything is drawn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from ong.errors import UserError
from ong.experiments.limits import check_numbers, within_memory
from ong.experiments.plan import plan

GOOD = [0, 0.0, 1e-12, 1e-37, -1e30, 1e38, 2**63 - 1, True, "inf", None, [0.1, {"a": 1}]]
BAD: dict[str, tuple[Any, str]] = {
    "infinity": ({"optimizer": {"lr": float("inf")}}, "'optimizer.lr': a finite number is expected, got inf"),
    "no number": ({"plugins": [{"damping": float("nan")}]}, "'plugins.0.damping': a finite number is expected, got nan"),
    "denormal": ([5e-324], "'0': 0 or a number from 1.2e-38 to 3.4e+38 is expected, got 5e-324"),
    "denormal in single precision": ({"lr": -1e-39}, "'lr': 0 or a number from 1.2e-38 to 3.4e+38 is expected, got -1e-39"),
    "too large": ({"lr": 1e39}, "'lr': 0 or a number from 1.2e-38 to 3.4e+38 is expected, got 1e+39"),
    "a long whole number": ({"lr": 10**5000}, "'lr': a whole number of at most 9223372036854775807 is expected"),
}  # fmt: skip


@pytest.mark.parametrize("value", GOOD)
def test_numbers_that_single_precision_holds_pass(value: Any) -> None:
    check_numbers({"a": value}, "it")


@pytest.mark.parametrize("case", BAD)
def test_other_numbers_are_named(case: str) -> None:
    values, message = BAD[case]
    with pytest.raises(UserError) as caught:
        check_numbers(values, "it")
    assert str(caught.value) == f"it: {message}"


def test_tables_in_tables_in_tables_are_refused() -> None:
    values: dict[str, Any] = {}
    for _ in range(2000):
        values = {"a": values}
    with pytest.raises(UserError, match="nested more than 30 deep"):
        check_numbers(values, "it")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.lr", float("inf"), "strategy 'naive': 'optimizer.lr': a finite number is expected"),
        ("stream.tasks", 10**5, "'stream.tasks': at most 1000, got 100000"),
        ("model.hidden", [10**10], "this machine"),
        ("model.hidden", [10**17], "permuted-digits / naive / seed 0: it needs more than the"),
        ("model.hidden", [30_000, 10**5], "at most"),
    ],
)
def test_runs_that_cannot_be_are_refused_in_a_moment(key: str, value: Any, message: str, tmp_path: Path) -> None:
    import ong.experiments.continual  # noqa: F401  # takes seconds

    begun, free = time.process_time(), psutil.Process().memory_info().rss
    with pytest.raises(UserError) as caught:
        plan("permuted-digits", ["naive"], [0], {key: value}, out=tmp_path)[0].run()
    assert message in str(caught.value)
    assert time.process_time() - begun < 2
    assert psutil.Process().memory_info().rss - free < 1e9
    assert not list(tmp_path.iterdir())


def test_weights_are_counted_once_and_as_they_are_registered() -> None:
    whole = psutil.virtual_memory().total // 4 // 4  # floats that are just allowed
    with within_memory("it"), torch.device("meta"):
        layer = nn.Linear(1, whole // 2 - 10)
        nn.Sequential(layer, layer).register_module("again", layer)  # the same weights
    with pytest.raises(UserError, match="^it: its weights take"), within_memory("it"), torch.device("meta"):
        nn.Linear(1, whole + 10)
    nn.Linear(1, whole + 10, device="meta")  # outside, whatever fits


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="^size mismatch$"), within_memory("it"):
        raise RuntimeError("size mismatch")

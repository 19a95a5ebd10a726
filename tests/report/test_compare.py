"""Differences paired by seed."""

from pathlib import Path

import numpy as np
import pytest
from fake_records import matrix, record, write_record, write_runs
from rich.console import Console
from scipy import stats

from ong.errors import UnknownNameError, UserError
from ong.report.compare import differences, print_differences
from ong.report.reading import read_runs
from ong.report.runs import Runs


def test_a_difference_is_scipys_paired_interval_over_shared_seeds(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "ogd"], seeds=4)
    write_record(tmp_path, record("ogd", seed=7))  # naive has none
    found = differences(read_runs(tmp_path)[0], "naive")
    ogd, naive = (np.array([matrix(name, seed).after[-1].mean() for seed in range(4)]) for name in ("ogd", "naive"))
    interval = stats.ttest_rel(ogd, naive).confidence_interval(0.95)
    assert list(found) == ["ogd"]
    assert found["ogd"]["ACC"].count == 4
    assert found["ogd"]["ACC"].mean == pytest.approx((ogd - naive).mean(), rel=1e-12)
    assert found["ogd"]["ACC"].half_width == pytest.approx((interval.high - interval.low) / 2, rel=1e-10)


def test_what_a_strategy_lacks_is_a_dash_and_clear_differences_are_bold(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "ogd", "joint"], seeds=3)
    (runs,) = read_runs(tmp_path)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_differences(runs, "naive", console)
    text = console.export_text(styles=True)
    joint = next(line for line in text.splitlines() if "joint" in line)
    assert "–" in joint
    assert "\x1b[1m+0." in text


@pytest.mark.parametrize(("width", "last"), [(60, "BWT"), (120, "FWT")])
def test_columns_that_do_not_fit_are_left_out_whole(tmp_path: Path, width: int, last: str) -> None:
    write_runs(tmp_path, ["naive", "ong-prior"], seeds=3)
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_differences(read_runs(tmp_path)[0], "naive", console)
    text = console.export_text()
    assert "…" not in text
    assert next(line for line in text.splitlines() if "Strategy" in line).split()[-1] == last
    assert ("not shown: Learning acc., Forgetting, FWT" in text) == (width == 60)


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive"], seeds=2)
    content = record("ogd", seed=0)
    content["benchmark"]["dataset"] = "digits"
    write_record(tmp_path, content)
    runs = read_runs(tmp_path)[0]
    assert isinstance(runs, Runs)
    with pytest.raises(UnknownNameError, match="did you mean 'naive'"):
        differences(runs, "nave")
    with pytest.raises(UserError, match="no other strategy has a run of the same seed and recipe as 'naive'"):
        differences(runs, "naive")

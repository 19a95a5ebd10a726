"""Why it forgets: sentences whose numbers add up to what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fake_records import record, write_record, write_runs

from ong.report.markdown import markdown
from ong.report.page import page
from ong.report.reading import read_runs
from ong.report.runs import Runs
from ong.report.words import why, won_back


def made(strategy: str, rows: list[list[float | None]], **diagnostics: list[float | None]) -> dict[str, Any]:
    return record(strategy, 0, tasks=2, accuracy_matrix=rows, diagnostics=diagnostics)


def runs_of(folder: Path, *records: dict[str, Any]) -> Runs:
    for content in records:
        write_record(folder, content)
    (runs,) = read_runs(folder)
    assert isinstance(runs, Runs)
    return runs


JOINT = made("joint", [[0.1, 0.1], [None, None], [0.9, 0.9]])
NAIVE = made("naive", [[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]], leak=[None, 0.8], descent_cosine=[1.0, 1.0])


def test_what_is_missing_is_split_into_forgotten_and_never_learned(tmp_path: Path) -> None:
    gpm = made("gpm", [[0.1, 0.1], [0.9, 0.1], [0.88, 0.7]], leak=[None, 0.2], descent_cosine=[1.0, 0.4])
    said = why(runs_of(tmp_path, JOINT, NAIVE, gpm))
    assert said["naive"] == [
        "Ends 0.200 below joint: forgetting costs 0.200 of its ACC; each task is learned as well as by joint.",
        "Of a step's length 80 % moves outputs of old examples at first order.",
    ]
    assert said["gpm"] == [
        "Ends 0.110 below joint: forgetting costs 0.010 of its ACC; learning each task less well than joint costs 0.100.",
        "Of a step's length 20 % moves outputs of old examples at first order (naive: 80 %).",
        "For their length its steps descend the task's loss at 70 % of the gradient's rate.",
    ]
    assert "joint" not in said


def test_the_parts_add_up_on_any_record(tmp_path: Path) -> None:
    (runs,) = read_runs(write_runs(tmp_path, ["naive", "ogd", "gpm", "er-replay", "joint"], seeds=3))
    assert isinstance(runs, Runs)
    for first, *_ in why(runs).values():
        gap, forgotten, missed = (float(x) for x in re.findall(r"\d\.\d{3}", first))
        signs = (
            1 if "below joint" in first else -1,
            1 if "forgetting costs" in first else -1,
            1 if "less well" in first else -1,
        )
        assert signs[0] * gap == pytest.approx(signs[1] * forgotten + signs[2] * missed, abs=0.0016)


def test_a_projection_is_said_to_leave_stored_outputs_but_not_others(tmp_path: Path) -> None:
    ogd = made("ogd", [[0.1, 0.1], [0.9, 0.1], [0.8, 0.9]], leak=[None, 1e-7], leak_unseen=[None, 0.25])
    (_, leak) = why(runs_of(tmp_path, NAIVE, ogd))["ogd"]
    assert leak == (
        "None of a step moves the outputs of stored old examples at first order, and 25 % moves those of other old examples."
    )


def test_winning_back_more_than_all_is_explained(tmp_path: Path) -> None:
    assert won_back(runs_of(tmp_path / "a", JOINT, NAIVE)) == ""
    replay = made("er-replay", [[0.1, 0.1], [0.9, 0.1], [0.91, 0.92]])
    runs = runs_of(tmp_path / "b", JOINT, NAIVE, replay)
    assert won_back(runs).startswith("More than 100 % won back: er-replay (108 %). Recovered compares with joint")
    for text in (page([runs]), markdown([runs])):
        assert "er-replay (108 %)" in text
        assert "Why it forgets" in text


def test_records_without_diagnostics_or_a_sequence_have_nothing_to_say(tmp_path: Path) -> None:
    one = record("naive", tasks=1, diagnostics={})
    write_record(tmp_path, one)
    (runs,) = read_runs(tmp_path)
    assert why(runs) == {}  # type: ignore[arg-type]

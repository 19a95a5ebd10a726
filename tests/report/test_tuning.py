"""The page of searches: its numbers are those of the trials, and it draws itself without a network or an error."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path
from typing import Any

import pytest
from browser import browse, needs_chromium
from optuna.distributions import CategoricalDistribution, FloatDistribution

from ong.report.studies import Study, Trial
from ong.report.tuning import importances, plateau, tuning_page


def study(name: str = "digits/ogd", better: str = "higher", **changes: Any) -> Study:
    """A search of which the rate decides nearly all, and momentum nothing."""
    sign = 1 if better == "higher" else -1
    trials = [
        Trial(
            number,
            {"lr": lr, "momentum": (7 * number % 10) / 10, "kind": ("a", "b")[number % 2]},
            sign * (0.9 - 0.1 * math.log10(lr / 0.1) ** 2),
            seconds=1.5,
        )
        for number, lr in enumerate((0.02, 0.001, 0.01, 0.5, 0.05, 0.1, 0.11, 0.3, 0.004, 0.09))
    ]
    trials += [
        Trial(10, {"lr": 1.0, "momentum": 0.5, "kind": "a"}, math.nan, "the loss is <nan>"),
        Trial(11, {"lr": 0.001, "momentum": 0.1, "kind": "b"}, math.nan, "ended after task 1", True, (0.3, 0.2)),
    ]
    about = {
        "settings": {
            "benchmark": {"name": "digits", "summary": "Some <digits>"},
            "strategy": {"name": "ogd", "summary": "A strategy", "optimizer": {"lr": 0.02}},
        },
        "search": {
            "lr": {"low": 0.001, "high": 0.5, "log": True},
            "momentum": {"low": 0.0, "high": 0.9},
            "kind": {"choices": ["a", "b"]},
        },
        "seeds": [1000],
        "at_once": 1,
        "prune": False,
        "metric": "ACC",
        "better": better,
        "means": "on held-out data",
        "near": 0.002,
        "command": ["ong tune digits ogd", "--seeds 1000,"],
        "environment": {"python": "3.11", "optuna": "5.0.0"},
    }
    space = {
        "lr": FloatDistribution(0.001, 1.0, log=True),
        "momentum": FloatDistribution(0.0, 0.9),
        "kind": CategoricalDistribution(["a", "b"]),
    }
    return Study(name, about | changes, trials, space)


def test_as_good_as_the_best_are_those_within_the_margin() -> None:
    for better in ("higher", "lower"):
        found = study(better=better)
        assert found.best is not None
        assert found.best.values["lr"] == 0.1
        assert [trial.values["lr"] for trial in plateau(found)] == [0.1, 0.11, 0.09]


def test_importances_add_up_and_name_what_decides() -> None:
    shares = importances(study())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["lr"] > 0.6
    few = study()
    assert importances(Study(few.name, few.about, few.trials[:5], few.space)) == {}


def cells(page: str) -> list[str]:
    return [
        html.unescape(re.sub("<.*?>", "", cell)).strip()
        for cell in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", page, re.DOTALL)
    ]


def test_the_page_tells_best_plateau_ranges_and_how_to_make_it_again() -> None:
    page = tuning_page([study()]).partition("<script>")[0]
    row = cells(page[page.index("<tbody>") :])
    assert row[:9] == ["ogd", "0.9000", "lr = 0.1, momentum = 0.5, kind = b", "5", "12", "1", "1", "3", "15"]
    assert row[9:].count("0.09 … 0.11") == 1
    assert "0.001 … 0.5, log" in row
    assert "0.001 … 1, log" in row
    assert "the loss is <nan>" in row
    assert "ong tune digits ogd --trials 12 --seeds 1000," in page
    assert "Some &lt;digits&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)


def test_the_page_says_where_searches_are_not_alike() -> None:
    other = study("digits/ewc", seeds=[1000, 1001])
    page = tuning_page([study(), Study(other.name, other.about, other.trials[:8], other.space)]).partition("<script>")[
        0
    ]
    assert "different numbers of trials" in page
    assert "searched with different --seeds" in page
    assert "different" not in tuning_page([study(), study("digits/ewc")]).split("<script>")[0]


def test_a_search_of_which_every_trial_stopped_has_a_page() -> None:
    known = study()
    page = tuning_page([Study(known.name, known.about, known.trials[10:11], known.space)]).partition("<script>")[0]
    assert "stopped" in cells(page)


@needs_chromium
def test_every_chart_is_drawn_and_nothing_fails_or_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(tuning_page([study()]), encoding="utf-8")
    charts = (
        'return [...document.querySelectorAll("[data-chart]")].map((e) => [e.dataset.chart, e.data.map((t) => t.y)])'
    )
    found = browse(tmp_path / "page.html", charts)
    assert [kind for kind, _ in found] == ["race", "history", "slice", "slice", "slice"]
    (_, (race,)), (_, (_, history)), *slices = found
    assert race[0] == pytest.approx(0.9 - 0.1 * math.log10(0.2) ** 2)
    assert race[-1] == pytest.approx(0.9)
    assert history[10] == history[11] == min(history)  # at the foot
    assert all(scores == history for _, (scores,) in slices)

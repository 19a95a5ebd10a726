"""The report of autoencoder benchmarks, on made-up curves whose numbers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy import stats

from ong.report.autoencoder import document
from ong.report.autoencoder_figures import (
    damping_curves,
    loss_over_epochs,
    loss_over_seconds,
    reconstruction_rows,
)
from ong.report.autoencoder_pairs import pair_of
from ong.report.autoencoder_races import cpu_clock, race_of
from ong.report.crossings import at, crossing
from ong.report.document import Document, TextTable
from ong.report.figures import LIGHT
from ong.report.images import pack, unpack
from ong.report.records import HistoryRecord
from ong.report.runs import HistoryRuns

SHADES = {"original": 1.0, "adam": 0.25, "ngd": 0.75, "sgd": 0.5}


def record(name: str, losses: list[float], seconds: float, seed: int = 0, **changes: Any) -> HistoryRecord:
    """A run that takes so many processor seconds an epoch; the test loss is one more than the training loss."""
    test = [loss + 1 for loss in losses]
    epochs = len(losses) - 1
    images = np.full((2, 3, 4, 4), SHADES["original"])
    images[1] = SHADES[name]
    values: dict[str, Any] = {
        "benchmark": {"name": "mnist-autoencoder", "kind": "autoencoder", "likelihood": "gaussian", "summary": "S"},
        "strategy": {"name": name, "summary": "s", "optimizer": {"use": "m:Made", "lr": 0.5}, "batch_size": 7},
        "seed": seed,
        "history": {
            "epoch": list(range(epochs + 1)),
            "train_loss": losses,
            "test_loss": test,
            "train_error": losses,
            "test_error": test,
            "damping": [0.5**epoch if name == "ngd" else None for epoch in range(epochs + 1)],
            "rejected": [0] * (epochs + 1),
        },
        "metrics": {"train_loss": losses[-1], "test_loss": test[-1], "train_error": losses[-1], "test_error": test[-1]},
        "diagnostics": {"mean_image_loss": 50.0, "reconstructions": pack(images)},
        "timing": {"train_seconds": [1.1 * seconds] * epochs, "cpu_seconds": [seconds] * epochs},
    }
    return HistoryRecord(**(values | changes))


def runs(*records: HistoryRecord) -> HistoryRuns:
    ordered = sorted(records, key=lambda r: (r.strategy_name, r.seed))
    return HistoryRuns("mnist-autoencoder", "autoencoder", tuple(ordered))


THREE = runs(
    record("sgd", [80.0, 40.0, 30.0, 20.0], 1.0),
    record("adam", [80.0, 30.0, 20.0, 10.0], 2.0),
    record("ngd", [80.0, 25.0, 15.0, 5.0], 4.0),
)


def table(found: Document, title: str) -> dict[str, dict[str, str]]:
    part = next(part for part in (found.summary, *found.parts) if isinstance(part, TextTable) and part.title == title)
    return {row["Strategy"]: row for row in part.frame.to_dict("records")}


def test_a_crossing_is_read_off_a_straight_line() -> None:
    assert crossing([8.0, 4.0, 2.0], 3.0) == 1.5
    assert crossing([8.0, 4.0, 2.0], 9.0) == 0.0
    assert crossing([8.0, 4.0, 2.0], 2.0) == 2.0
    assert crossing([8.0, 4.0, 2.0], 1.0) is None
    assert crossing([8.0, 2.0, 9.0], 5.0) == 0.5  # the first time counts
    assert at(1.5, [0.0, 5.0, 10.0]) == 7.5
    assert at(2.0, [0.0, 5.0, 10.0]) == 10.0


def test_a_race_counts_epochs_and_seconds_against_those_of_the_owner() -> None:
    sgd, ngd = (THREE.of(name)[0] for name in ("sgd", "ngd"))
    assert cpu_clock(ngd) == [0.0, 4.0, 8.0, 12.0]
    race = race_of(ngd, sgd)  # ngd is at 20 halfway between 25 and 15
    assert race is not None
    assert (race.epochs, race.seconds) == (1.5, 6.0)
    assert (race.share_of_epochs, race.share_of_seconds) == (0.5, 2.0)
    assert race_of(sgd, ngd) is None


def test_a_pair_compares_last_losses_and_those_after_equal_processor_time() -> None:
    sgd, ngd = (THREE.of(name)[0] for name in ("sgd", "ngd"))
    pair = pair_of(ngd, sgd)  # after sgd's three seconds ngd is three quarters of the way from 80 to 25
    assert (pair.train, pair.test, pair.in_time) == (-15.0, -15.0, 80 - 0.75 * 55 - 20)
    other = pair_of(sgd, ngd)
    assert (other.train, other.test, other.in_time) == (15.0, 15.0, -pair.in_time)


def test_the_claim_is_tested_by_scipys_paired_interval() -> None:
    last = {"sgd": [20.0, 30.0, 26.0], "ngd": [10.0, 12.0, 11.0], "adam": [21.0, 28.0, 27.0]}
    found = document(
        runs(*(record(name, [80.0, 40.0, x], 1.0, seed) for name, xs in last.items() for seed, x in enumerate(xs)))
    )
    rows = table(found, "Against sgd")
    for name in ("ngd", "adam"):
        difference = np.subtract(last[name], last["sgd"])
        bounds = stats.ttest_rel(last[name], last["sgd"]).confidence_interval(0.95)
        expected = f"{difference.mean():.1f} ± {(bounds.high - bounds.low) / 2:.1f}".replace("-", "−")
        assert rows[name] == {
            "Strategy": name, "Seeds": "3", "Train loss": expected, "Test loss": expected,
            "Train loss in equal time": expected,
        }  # fmt: skip
    (said,) = found.findings
    assert said.startswith("ngd against sgd, training loss, paired over 3 seeds: lower (−14.3 ± ")
    close = runs(*(record("sgd", [80.0, x], 1.0, i) for i, x in enumerate((20.0, 30.0))),
                 *(record("ngd", [80.0, x], 1.0, i) for i, x in enumerate((19.0, 32.0))))  # fmt: skip
    assert "not to be told apart (0.5 ± 19.1) after the last epoch" in document(close).findings[0]


def test_the_tables_say_who_got_where_and_when() -> None:
    found = document(THREE)
    summary = table(found, "Summary")
    assert list(summary) == ["ngd", "adam", "sgd"]  # least training loss first
    assert summary["ngd"]["Train loss"] == "5.0"
    assert summary["ngd"]["Test loss"] == "6.0"
    assert summary["ngd"]["CPU s/epoch"] == "4.00"
    assert summary["ngd"]["Wall s/epoch"] == "4.40"
    assert found.summary.best == {"Train loss": {"ngd"}, "Test loss": {"ngd"}}
    race = table(found, "To the loss of sgd")
    assert set(race) == {"adam", "ngd"}
    assert (race["ngd"]["Epochs"], race["ngd"]["Of sgd's epochs"], race["ngd"]["Of sgd's s"]) == (
        "1.50",
        "0.50",
        "2.00",
    )
    behind = table(found, "To the loss of adam")["sgd"]
    assert (behind["Seeds there"], behind["Epochs"], behind["Of adam's s"]) == ("0 of 1", "–", "–")
    settings = table(found, "Settings")["sgd"]
    assert (settings["Batch"], settings["Options"]) == ("7", "lr 0.5")
    assert ("ngd to sgd's loss", "2.00 ×", "its time, 0.50 × its epochs") in found.tiles


def test_several_seeds_are_paired_and_have_intervals() -> None:
    both = runs(
        record("sgd", [80.0, 40.0, 20.0], 1.0),
        record("sgd", [80.0, 40.0, 30.0], 1.0, seed=1),
        record("ngd", [80.0, 20.0, 10.0], 1.0),
        record("ngd", [80.0, 30.0, 10.0], 1.0, seed=1),
    )
    race = table(document(both), "To the loss of sgd")["ngd"]
    assert race["Seeds there"] == "2 of 2"
    assert race["Of sgd's epochs"] == "0.50 ± 0.00"  # each is at its own seed's loss after one epoch of two
    assert table(document(both), "Summary")["sgd"]["Train loss"].startswith("25.0 ± ")


def test_a_cross_entropy_has_columns_for_the_squared_error() -> None:
    benchmark = {"name": "mnist-autoencoder", "kind": "autoencoder", "likelihood": "bernoulli"}
    found = document(runs(record("sgd", [80.0, 40.0], 1.0, benchmark=benchmark)))
    assert {"Train error", "Test error"} <= set(found.summary.frame.columns)
    assert "Train error" not in document(THREE).summary.frame.columns


def test_shared_cores_and_nets_that_do_not_learn_are_told() -> None:
    assert document(THREE).findings == ()
    shared = record("sgd", [80.0, 40.0], 1.0, timing={"train_seconds": [2.0], "cpu_seconds": [1.0]})
    (said,) = document(runs(shared)).findings
    assert "up to 2.0 times the processor's" in said
    (said,) = document(runs(record("sgd", [80.0, 49.0], 1.0))).findings
    assert said == "Not learning yet, no better than the mean image (test loss 50.0): sgd."


def test_curves_lie_where_the_records_say() -> None:
    over_epochs, over_seconds = loss_over_epochs(THREE, LIGHT), loss_over_seconds(THREE, LIGHT)
    for place, part in enumerate(("train_loss", "test_loss")):
        lines = {line.get_label(): line for line in over_epochs.axes[place].get_lines()}
        assert list(lines["ngd"].get_xdata()) == [0, 1, 2, 3]
        np.testing.assert_allclose(lines["ngd"].get_ydata(), THREE.of("ngd")[0].history[part])
        assert set(lines["mean image"].get_ydata()) == {50.0}
        lines = {line.get_label(): line for line in over_seconds.axes[place].get_lines()}
        assert list(lines["ngd"].get_xdata()) == [4.0, 8.0, 12.0]
        np.testing.assert_allclose(lines["ngd"].get_ydata(), THREE.of("ngd")[0].history[part][1:])
        assert over_seconds.axes[place].get_xscale() == "log"


def test_only_strategies_with_a_damping_have_a_curve_of_it() -> None:
    (axes,) = damping_curves(THREE, LIGHT).axes
    (line,) = axes.get_lines()
    assert line.get_label() == "ngd"
    assert list(line.get_ydata()) == pytest.approx([1.0, 0.5, 0.25, 0.125])
    drawings = [[drawing.name for drawing in document(some).drawings] for some in (THREE, runs(THREE.of("sgd")[0]))]
    assert drawings == [
        ["loss-epochs", "loss-seconds", "reconstructions", "damping"],
        ["loss-epochs", "loss-seconds", "reconstructions"],
    ]


def test_reconstructions_stand_below_the_originals_a_row_a_strategy() -> None:
    figure = reconstruction_rows(THREE, LIGHT)
    (axes,) = figure.axes
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255  # type: ignore[attr-defined]
    for label, height in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True):
        x, y = axes.transData.transform((1.5, height))  # within the first image
        np.testing.assert_allclose(picture[picture.shape[0] - round(y), round(x)], SHADES[label.get_text()], atol=0.01)
        extent = label.get_window_extent()
        assert extent.x0 >= 0  # no name is cut off
    assert [label.get_text() for label in axes.get_yticklabels()] == ["original", "adam", "ngd", "sgd"]
    x, y = axes.transData.transform((5.0, 1.5))  # between two images
    np.testing.assert_allclose(picture[picture.shape[0] - round(y), round(x)], to_rgb(LIGHT.paper), atol=0.01)


def test_packed_images_come_back_to_within_half_a_grey_level() -> None:
    images = np.random.default_rng(0).uniform(size=(2, 3, 5, 4))
    packed = pack(images)
    assert len(packed["pixels"]) == 4 * -(-images.size // 3)
    np.testing.assert_allclose(unpack(packed), images, rtol=0, atol=0.5 / 255 + 1e-12)

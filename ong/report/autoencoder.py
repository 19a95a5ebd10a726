"""The report of autoencoder benchmarks: losses, epochs and seconds to another's loss, images, damping."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pandas as pd

from ong.report.autoencoder_figures import (
    damping_curves,
    loss_over_epochs,
    loss_over_seconds,
    natural,
    reconstruction_rows,
)
from ong.report.autoencoder_pairs import claims, pair_table
from ong.report.autoencoder_races import cpu_clock, races
from ong.report.columns import MISSING, number
from ong.report.document import Document, Drawing, TextTable, interval, rows_frame, value
from ong.report.records import HistoryRecord
from ong.report.runs import HistoryRuns

__all__ = ["document"]

OWNERS = ("sgd", "adam")
"""Strategies whose last training loss the others are timed to."""

SHARED = 1.15
"""Wall-clock over processor seconds from which on runs are said to have shared their cores."""

PAPER_GRID = ".04, .06 and .08"

FORMULAS = {
    "loss": "−log p(x | h), mean over images: ½‖x − h‖² (gaussian), −Σ x log σ(h) + (1 − x) log(1 − σ(h)) (bernoulli)",
    "error": "½‖x − x̂‖², x̂ = h (gaussian) or σ(h) (bernoulli)",
    "natural gradient": "ΔW_i = −(α/L) (Λ̃_i + √λ I)⁻¹ ∇_i (Λ_i + √λ I)⁻¹, Λ = E[a aᵀ], Λ̃ = E[δ δᵀ]",
    "damping": "λ × 3/2 where the loss fell by less than ¼ of its prediction, × 2/3 where by more than ¾",
    "mean image": "the test loss of a net that puts out the mean training image: not learning yet",
}


def document(runs: HistoryRuns) -> Document:
    """Return the report of one autoencoder benchmark."""
    parts: list[TextTable | Drawing] = [
        Drawing(
            "Loss against epochs",
            "Geometric mean over seeds, the band from the least to the largest; dotted the mean image's test loss.",
            "loss-epochs",
            lambda theme: loss_over_epochs(runs, theme),
        )
    ]
    if _epochs(runs):  # before training there are no seconds, and a log axis has no place for 0
        parts.append(
            Drawing(
                "Loss against seconds",
                "The same over processor seconds of training, evaluation excluded, from the end of the first epoch on.",
                "loss-seconds",
                lambda theme: loss_over_seconds(runs, theme),
            )
        )
    parts.append(
        Drawing(
            "Reconstructions",
            f"Test images and what the trained nets make of them. Seed {runs.records[0].seed}.",
            "reconstructions",
            lambda theme: reconstruction_rows(runs, theme),
        )
    )
    if natural(runs):
        parts.append(
            Drawing(
                "Damping",
                "λ after every epoch, for the strategies that adapt one.",
                "damping",
                lambda theme: damping_curves(runs, theme),
            )
        )
    owners = [owner for owner in OWNERS if owner in runs.strategies and len(runs.strategies) > 1]
    parts += [pair_table(runs, _ordered(runs), owner) for owner in owners]
    parts += [_race_table(runs, owner) for owner in owners]
    parts.append(_settings(runs))
    return Document(runs, _tiles(runs), _summary(runs), parts, FORMULAS, rows_frame(runs), tuple(_findings(runs)))


def _ordered(runs: HistoryRuns) -> list[str]:
    """Return strategies by their last training loss, best first."""
    return sorted(runs.strategies, key=lambda name: _mean(runs.of(name), "train_loss"))


def _mean(records: list[HistoryRecord], metric: str) -> float:
    return sum(value(record.metrics.get(metric)) for record in records) / len(records)


def _summary(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in _ordered(runs):
        records = runs.of(name)

        def metric(key: str, records: list[HistoryRecord] = records) -> str:
            write = _two_places if key.endswith("error") else _loss
            return interval((value(record.metrics.get(key)) for record in records), write)

        row = {
            "Strategy": name,
            "Seeds": str(len(records)),
            "Train loss": metric("train_loss"),
            "Test loss": metric("test_loss"),
        }
        if records[0].benchmark.get("likelihood") != "gaussian":  # otherwise the error is the loss
            row |= {"Train error": metric("train_error"), "Test error": metric("test_error")}
        row |= {
            "CPU s/epoch": _per_epoch(record.timing.cpu_seconds for record in records),
            "Wall s/epoch": _per_epoch(record.timing.train_seconds for record in records),
            "Undone steps": interval((float(r.history["rejected"][-1]) for r in records), lambda x: number(x, 0)),
        }
        rows.append(row)
    lead = (
        f"After {_epochs(runs)} epochs; mean ± half-width of the 95% t-interval over seeds. Processor seconds (one "
        "thread, evaluation excluded) compare even where runs shared cores, wall-clock seconds only where none did."
    )
    hints = {"Undone steps": "steps that raised their own batch's loss and were taken back"}
    best = {
        title: {min(runs.strategies, key=lambda name: _mean(runs.of(name), key))}
        for title, key in (("Train loss", "train_loss"), ("Test loss", "test_loss"))
    }
    droppable = ("Undone steps", "Seeds", "Wall s/epoch", "Train error")
    return TextTable("Summary", lead, pd.DataFrame(rows), ("Strategy",), hints, best, droppable)


def _loss(number_: float) -> str:
    return number(number_, 1)


def _two_places(number_: float) -> str:
    return number(number_, 2)


def _epochs(runs: HistoryRuns) -> int:
    """Return the epochs trained, the same for every strategy."""
    return len(runs.records[0].history["epoch"]) - 1


def _per_epoch(seconds: Iterable[list[float | None]]) -> str:
    """Write the mean over runs and epochs."""
    known = [value(second) for run in seconds for second in run]
    return _two_places(sum(known) / len(known)) if known else MISSING


def _race_table(runs: HistoryRuns, owner: str) -> TextTable:
    keys = {
        "Epochs": "epochs",
        "CPU s": "seconds",
        f"Of {owner}'s epochs": "share_of_epochs",
        f"Of {owner}'s s": "share_of_seconds",
    }
    rows = []
    for name in (name for name in _ordered(runs) if name != owner):
        found = races(runs, name, owner)
        arrived = [race for race in found if race is not None]
        row = {"Strategy": name, "Seeds there": f"{len(arrived)} of {len(found)}"}
        for title, key in keys.items():
            values = (getattr(race, key) for race in arrived)
            row[title] = interval(values, _two_places) if len(arrived) == len(found) else MISSING
        rows.append(row)
    loss = _loss(_mean(runs.of(owner), "train_loss"))
    seconds = [cpu_clock(record)[-1] for record in runs.of(owner)]
    lead = (
        f"When each first reached {owner}'s last training loss, seed by seed: {loss} after "
        f"{_epochs(runs)} epochs and {number(sum(seconds) / len(seconds), 1)} processor seconds. Between two epochs "
        "the loss counts as a straight line; a dash where a seed never got there."
    )
    return TextTable(f"To the loss of {owner}", lead, pd.DataFrame(rows), ("Strategy",))


def _settings(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in runs.strategies:
        recipe = runs.of(name)[0].strategy
        options = {key: option for key, option in recipe["optimizer"].items() if key != "use"}
        rows.append(
            {
                "Strategy": name,
                "Optimizer": str(recipe["optimizer"]["use"]).partition(":")[2],
                "Batch": str(recipe["batch_size"]),
                "Options": ", ".join(f"{key} {json.dumps(option)}" for key, option in options.items())
                or "its defaults",
            }
        )
    lead = "Other values run with --set optimizer.lr=…; ong tune searches the ranges of a recipe's [search] table."
    if "sgd" in runs.strategies:
        lead += f" The paper's sgd is the best of α/20 with α of {PAPER_GRID}."
    return TextTable("Settings", lead, pd.DataFrame(rows), ("Strategy", "Optimizer", "Options"))


def _tiles(runs: HistoryRuns) -> list[tuple[str, str, str]]:
    tiles = []
    for part, what in (("train", "training loss"), ("test", "test loss")):
        best = min(runs.strategies, key=lambda name: _mean(runs.of(name), f"{part}_loss"))
        tiles.append((f"least {what}", _loss(_mean(runs.of(best), f"{part}_loss")), best))
    for owner in OWNERS:
        if owner in runs.strategies:
            tiles += _quickest(runs, owner)
    tiles.append(("the mean image", _loss(runs.records[0].diagnostics["mean_image_loss"]), "its test loss"))
    return tiles


def _quickest(runs: HistoryRuns, owner: str) -> list[tuple[str, str, str]]:
    """The natural gradient that first was at an owner's last loss, by processor seconds."""
    shares: dict[str, tuple[float, float]] = {}
    for name in natural(runs):
        found = [race for race in races(runs, name, owner) if race is not None]
        if found and len(found) == len(runs.of(name)):
            shares[name] = (
                sum(race.share_of_seconds for race in found) / len(found),
                sum(race.share_of_epochs for race in found) / len(found),
            )
    if not shares:
        return []
    name = min(shares, key=lambda key: shares[key])
    seconds, epochs = shares[name]
    return [(f"{name} to {owner}'s loss", f"{seconds:.2f} ×", f"its time, {epochs:.2f} × its epochs")]


def _findings(runs: HistoryRuns) -> list[str]:
    found = claims(runs, natural(runs), OWNERS[0]) if OWNERS[0] in runs.strategies else []
    slowest = max((_sharing(record) for record in runs.records), default=1.0)
    if slowest >= SHARED:
        found.append(
            f"Wall-clock seconds were up to {slowest:.1f} times the processor's: other programs, or runs side by side, "
            "had the cores; compare processor seconds only."
        )
    level = runs.records[0].diagnostics["mean_image_loss"]
    stuck = [name for name in runs.strategies if _mean(runs.of(name), "test_loss") > 0.98 * level]
    if stuck:
        found.append(f"Not learning yet, no better than the mean image (test loss {_loss(level)}): {', '.join(stuck)}.")
    return found


def _sharing(record: HistoryRecord) -> float:
    """Return a run's wall-clock over processor seconds of training."""
    wall, cpu = (sum(value(s) for s in part) for part in (record.timing.train_seconds, record.timing.cpu_seconds))
    return wall / cpu if cpu else 1.0

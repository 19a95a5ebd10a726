"""The report of Fisher-variance benchmarks: predicted and measured errors, bounds, winners, draws."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pandas as pd

from ong.report.columns import MISSING, number
from ong.report.document import Document, Drawing, TextTable, interval, rows_frame, small, value
from ong.report.fisher_figures import agreement, through_training
from ong.report.records import HistoryRecord
from ong.report.runs import HistoryRuns

__all__ = ["ESTIMATORS", "document"]

ESTIMATORS = ("mc", "hessian", "mixture", "rademacher", "gaussian")

FORMULAS = {
    "relative std": "sqrt(Σ_i Var F̂_ii)/‖diag F‖₂ over a layer's weights and biases, one draw an input",
    "mc": "Î₁ = s_i², s = Jᵀ(t − η); V₁ = K(J_i, J_i, J_i, J_i) − F_ii²",
    "hessian": "Î₂ = F_ii − (t − η)ᵀ∂²_i h, −∂²_i log p of a drawn label; V₂ = (∂²_i h)ᵀ I (∂²_i h)",
    "mixture": "(1 − w) Î₁ + w Î₂ with the w of least variance for every weight",
    "rademacher": "(J_iᵀ B ε)², ε = ±1, BBᵀ = I; 2(F_ii² − Σ_c b_c⁴), b = BᵀJ_i",
    "gaussian": "(J_iᵀ B ε)², ε ~ N(0, 1); 2 F_ii²",
    "bounds": "V₁ ≤ ‖∂_i h‖⁴ λ_max(K − I⊗I), V₂ ≤ ‖∂²_i h‖² λ_max(I)",
    "draws": "least N with relative std/√N ≤ the wanted relative error in every layer",
}


def document(runs: HistoryRuns) -> Document:
    """Return the report of one Fisher-variance benchmark."""
    parts: list[TextTable | Drawing] = [
        Drawing(
            "Predicted against measured",
            "Relative standard deviation of diag F, every layer, estimator and epoch: the closed form across, repeated "
            "estimates up, with two standard errors. The line is agreement.",
            "agreement",
            lambda theme: agreement(runs, theme),
        )
    ]
    parts += [
        Drawing(
            f"Through training: {name}",
            "Relative standard deviation of one draw an input, layer by layer; lines are closed forms, dots measured, "
            "dashed the bounds of mc and hessian. Exact zeros (hessian and mixture in a last layer, or with ReLU) have "
            "no place on the axis.",
            f"training-{name}",
            partial(through_training, runs, name),
        )
        for name in runs.strategies
    ]
    parts += [_winners(runs), _draws(runs)]
    if any(record.diagnostics.get("ekfac") for record in runs.records):
        parts.append(_ekfac(runs))
    parts.append(_bounds(runs))
    return Document(runs, _tiles(runs), _summary(runs), parts, FORMULAS, rows_frame(runs))


def _mean(runs: HistoryRuns, strategy: str, metric: str) -> float:
    values = [value(record.metrics.get(metric)) for record in runs.of(strategy)]
    return sum(values) / len(values)


def _tiles(runs: HistoryRuns) -> list[tuple[str, str, str]]:
    shares = [value(record.metrics.get("within_two_errors")) for record in runs.records]
    tiles = [
        ("closed form and measurement", f"{100 * sum(shares) / len(shares):.0f} %", "agree to two standard errors")
    ]
    ratio = {
        name: (_mean(runs, name, "relative_std_mc") / _mean(runs, name, "relative_std_rademacher")) ** 2
        for name in runs.strategies
    }
    low, high = min(ratio.values()), max(ratio.values())
    span = f"{low:.0f}×" if round(low) == round(high) else f"{low:.0f} to {high:.0f}×"
    tiles.append(("rademacher needs", span, "fewer draws than mc, trained nets"))
    wins = [layer["best"] for record in runs.records for layer in _at(record, -1).values()]
    best = max(sorted(set(wins)), key=wins.count)
    tiles.append(("varies least, trained", best, f"in {wins.count(best)} of {len(wins)} layers"))
    return tiles


def _at(record: HistoryRecord, moment: int) -> dict[str, dict[str, Any]]:
    """Return the layers at a place of the history."""
    return {name: rows[moment] for name, rows in record.history["layers"].items()}


def _worst(record: HistoryRecord, moment: int, estimator: str) -> float:
    return max(value(layer["predicted"][estimator]) for layer in _at(record, moment).values())


def _summary(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in runs.strategies:
        records = runs.of(name)
        row = {
            "Activation": name,
            "Seeds": str(len(records)),
            "Accuracy": interval((value(r.metrics.get("accuracy")) for r in records), number),
        }
        for estimator in ESTIMATORS:
            before, after = (interval((_worst(r, moment, estimator) for r in records), small) for moment in (0, -1))
            row[estimator] = f"{before} → {after}"
        row["Within 2 s.e."] = interval((value(r.metrics.get("within_two_errors")) for r in records), number)
        rows.append(row)
    inputs = runs.records[0].diagnostics["inputs"]
    lead = f"Relative std of the worst layer, initialised → trained: diag F of {inputs} inputs, one draw at each."
    hints = {
        "Within 2 s.e.": "share of (layer, estimator, epoch) where measurement and closed form agree to two errors"
    }
    return TextTable(
        "Summary", lead, pd.DataFrame(rows), ("Activation",), hints, {}, ("Seeds", "gaussian", "mixture", "hessian")
    )


def _winners(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in runs.strategies:
        record = runs.of(name)[0]
        for number_, layer in enumerate(record.history["layers"], start=1):
            before, after = (record.history["layers"][layer][moment] for moment in (0, -1))
            rows.append(
                {
                    "Activation": name,
                    "Layer": str(number_),
                    "Weights": str(record.diagnostics["parameters"][layer]),
                    "Initialised": before["best"],
                    "Trained": after["best"],
                    "Cheap, trained": _cheapest(after),
                    "Î₂ beats Î₁ at first": f"{100 * before['hessian_share']:.0f} %",
                    "Î₂ beats Î₁ trained": f"{100 * after['hessian_share']:.0f} %",
                }
            )
    lead = (
        "The estimator of least variance (equals go to the cheaper), the best of those that need first derivatives "
        "only, and the share of weights where Î₂ varies less than Î₁. "
        "hessian and mixture as computed here contain the exact "
        f"JᵀIJ, C backward passes: where they win, the exact Fisher does too. Seed {runs.records[0].seed}."
    )
    text = ("Activation", "Layer", "Initialised", "Trained", "Cheap, trained")
    return TextTable("Which estimator wins where", lead, pd.DataFrame(rows), text)


def _cheapest(layer: dict[str, Any]) -> str:
    cheap = {name: value(layer["predicted"][name]) for name in ("rademacher", "gaussian", "mc")}
    known = {name: std for name, std in cheap.items() if not math.isnan(std)}
    return min(known, key=known.__getitem__) if known else MISSING


def _draws(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in runs.strategies:
        record = runs.of(name)[0]
        for before, after in zip(record.diagnostics["draws_before"], record.diagnostics["draws"], strict=True):
            row = {"Activation": name, "Wanted error": f"{before['relative_error']:g}"}
            for estimator in ESTIMATORS:
                row[estimator] = f"{before['draws'][estimator]} → {after['draws'][estimator]}"
            rows.append(row)
    outputs = runs.records[0].diagnostics["outputs"]
    lead = (
        "Draws an input for a wanted relative error of diag F in every layer, initialised → trained. The exact Fisher "
        f"costs {outputs} backward passes an input: beyond {outputs} draws it is cheaper than drawing. "
        f"Seed {runs.records[0].seed}."
    )
    return TextTable("How many draws", lead, pd.DataFrame(rows), ("Activation",))


def _ekfac(runs: HistoryRuns) -> TextTable:
    rows = [
        {
            "Activation": name,
            "Wanted error": f"{row['relative_error']:g}",
            "Draws chosen": str(row["samples"]),
            "Measured error": small(value(row["measured"])),
        }
        for name in runs.strategies
        for row in runs.of(name)[0].diagnostics.get("ekfac", [])
    ]
    lead = (
        "What ong.EKFAC(relative_error=…) chose on the trained net, and the relative error of its eigenvalues in the "
    )
    lead += "worst layer, root-mean-square over repeats. The choice rests on diag F in the weights' own coordinates."
    return TextTable("EKFAC to a wanted error", lead, pd.DataFrame(rows), ("Activation",))


def _bounds(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in runs.strategies:
        record = runs.of(name)[0]
        for number_, layer in enumerate(_at(record, -1).values(), start=1):
            row = {"Activation": name, "Layer": str(number_)}
            for estimator in ("mc", "hessian"):
                std, bound = value(layer["predicted"][estimator]), value(layer["bound"][estimator])
                row[estimator] = small(std)
                row[f"{estimator} at most"] = small(bound)
                row[f"{estimator} ratio"] = small(bound / std) if std else MISSING
            rows.append(row)
    lead = f"Relative std on the trained net beside its bound. Seed {runs.records[0].seed}."
    return TextTable("Bounds", lead, pd.DataFrame(rows), ("Activation", "Layer"))

"""The report of deep linear benchmarks: loss, rate against theory, exactness, where a form fails."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from ong.report.columns import MISSING, number
from ong.report.deep_linear_figures import theory_curves, training_curves
from ong.report.document import Document, Drawing, TextTable, interval, rows_frame, small, value
from ong.report.records import HistoryRecord
from ong.report.runs import HistoryRuns

__all__ = ["document"]

FORMULAS = {
    "loss": "½ E‖y − Wx‖², W = W_L … W_1; its floor is ½ tr Σ",
    "natural gradient": "v with F v = −∇; F = Jᵀ(Σ⁻¹ ⊗ C)J, C = E[xxᵀ]",
    "ngd-paper": "ΔW_i = −(α/L) (B_iᵀΣ⁻¹B_i)⁻¹ ∇_i (A_i C A_iᵀ)⁻¹, A_i = W_{i−1}…W_1, B_i = W_L…W_{i+1}",
    "ngd-min-norm": "v = −F⁺∇",
    "ngd-any-width": "ΔW_i = −α B̃_i⁺ X Ã_i⁺, X_ab = Ẽ_ab / #{layers that reach (a, b)}, in whitened coordinates",
    "residual": "‖F v + ∇‖/‖∇‖, 0 for an exact natural gradient",
    "rate": "ratio of successive (loss − floor); theory (1 − α)² for every exact form, depth and conditioning",
}


def document(runs: HistoryRuns) -> Document:
    """Return the report of one deep linear benchmark."""
    parts: list[TextTable | Drawing] = [
        Drawing(
            "Test loss while training",
            "Minibatches of noisy examples; geometric mean over seeds, the band from the least to the largest. The "
            "axis of epochs is stretched at its start. SGD at the best rate of its grid.",
            "training",
            lambda theme: training_curves(runs, theme),
        )
    ]
    if any(record.history.get("theory") for record in runs.records):
        parts += [
            Drawing(
                "Against theory",
                "Loss above the floor, small undamped steps on the expected loss from orthogonal weights; dashed the "
                "slope (1 − α)² an exact natural gradient must have. On square nets theory also says where the paper's "
                "flow meets a singular W and blows up: the vertical line.",
                "theory",
                lambda theme: theory_curves(runs, theme),
            ),
            _theory(runs),
            _exactness(runs),
        ]
    if any(record.diagnostics.get("convergence") for record in runs.records):
        parts.append(_convergence(runs))
    parts.append(_grid(runs))
    return Document(runs, _tiles(runs), _summary(runs), parts, FORMULAS, rows_frame(runs), tuple(_findings(runs)))


def _ordered(runs: HistoryRuns) -> list[str]:
    """Return strategies by the least test loss they reach, best first."""
    return sorted(runs.strategies, key=lambda name: _mean(runs, name, "least_test_loss"))


def _mean(runs: HistoryRuns, strategy: str, metric: str) -> float:
    values = [value(record.metrics.get(metric)) for record in runs.of(strategy)]
    return sum(values) / len(values)


def _epochs(records: Sequence[HistoryRecord]) -> str:
    """Write the epochs to the target, the worst seed's; a dash where a seed never got there."""
    values = [value(record.metrics.get("epochs_to_target")) for record in records]
    return MISSING if any(math.isnan(v) for v in values) else f"{max(values):.0f}"


def _tiles(runs: HistoryRuns) -> list[tuple[str, str, str]]:
    diagnostics = runs.records[0].diagnostics
    tiles = []
    natural = [name for name in _ordered(runs) if name != "sgd"]
    if natural:
        reached = [name for name in natural if _epochs(runs.of(name)) != MISSING]
        quickest = min(reached, key=lambda name: float(_epochs(runs.of(name))), default=natural[0])
        goal = f"to a test loss of {small(diagnostics['target'])}"
        tiles.append((quickest, f"{_epochs(runs.of(quickest))} epochs", goal))
        tiles.append((f"least loss, {natural[0]}", small(_mean(runs, natural[0], "least_test_loss"), 2), "test loss"))
    if "sgd" in runs.strategies:
        epochs = max(runs.of("sgd")[0].history["epoch"])
        tiles.append(("SGD's best", small(_mean(runs, "sgd", "least_test_loss"), 2), f"test loss in {epochs} epochs"))
    tiles.append(("the floor", small(diagnostics["floor"]), "½ tr Σ"))
    return tiles


def _summary(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in _ordered(runs):
        records = runs.of(name)
        exactness = records[0].diagnostics.get("exactness")
        seconds = [sum(value(s) for s in record.timing.train_seconds) for record in records]
        rows.append(
            {
                "Strategy": name,
                "Seeds": str(len(records)),
                "Least test loss": interval((value(r.metrics.get("least_test_loss")) for r in records), _loss),
                "Last test loss": interval((value(r.metrics.get("test_loss")) for r in records), _loss),
                "Epochs to target": _epochs(records),
                "of": str(max(records[0].history["epoch"])),
                "Batch": str(records[0].strategy.get("batch_size", MISSING)),
                "α": ", ".join(sorted({f"{record.diagnostics['rate']:g}" for record in records})),
                "Exact": MISSING if exactness is None else "yes" if exactness["exact"] else "no",
                "Train s": number(sum(seconds) / len(seconds), 1),
            }
        )
    hints = {
        "Epochs to target": "the first epoch whose test loss is at most the target; the slowest seed's",
        "Exact": "whether the undamped form solves F v = −∇ for these widths",
        "of": "epochs trained",
        "Train s": "at the rate shown; a grid costs more",
    }
    droppable = ("Seeds", "Last test loss", "Batch", "of", "α")
    lead = (
        f"Target {small(runs.records[0].diagnostics['target'])}, floor {small(runs.records[0].diagnostics['floor'])}; "
    )
    lead += "mean ± half-width of the 95% t-interval over seeds."
    best = {"Least test loss": {_ordered(runs)[0]}}
    return TextTable("Summary", lead, pd.DataFrame(rows), ("Strategy",), hints, best, droppable)


def _loss(number_: float) -> str:
    return small(number_, 2)


def _theory(runs: HistoryRuns) -> TextTable:
    rows = []
    for record in _with_theory(runs):
        theory = record.history["theory"]
        rate, predicted = value(theory["measured_rate"]), theory["predicted_rate"]
        rows.append(
            {
                "Strategy": record.strategy_name,
                "Seed": str(record.seed),
                "α": f"{theory['alpha']:g}",
                "Measured rate": number(rate, 4),
                "(1 − α)²": number(predicted, 4),
                "Off by": MISSING if math.isnan(rate) else f"{100 * abs(rate / predicted - 1):.2f} %",
                "Residual": small(value(theory["residual"])),
                "Blow-up predicted": _step(theory["blow_up_step"], len(theory["excess"])),
                "Loss first rose": "never" if theory["first_rise"] is None else f"step {theory['first_rise']}",
            }
        )
    lead = (
        "Rate: ratio of successive losses above the floor over the last steps, or over the first half of those before "
        "a predicted blow-up. Residual: the largest while the loss fell."
    )
    return TextTable("Measured rate against (1 − α)²", lead, pd.DataFrame(rows), ("Strategy",))


def _step(step: float | None, steps: int) -> str:
    if step is None:
        return "never"
    return f"step {step:.0f}" if step < steps else f"step {step:.0f}, later than this"


def _exactness(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in runs.strategies:
        found = [record.diagnostics["exactness"] for record in runs.of(name) if record.diagnostics.get("exactness")]
        if found:
            rows.append(
                {
                    "Strategy": name,
                    "Exact": "yes" if found[0]["exact"] else "no",
                    "Residual": small(max(value(row["residual"]) for row in found)),
                    "Reason": found[0]["reason"],
                }
            )
    lead = "Residual ‖F v + ∇‖/‖∇‖ at the random start. Sixteen square Gaussian layers have a condition number near "
    lead += "10¹⁵: what is left of an exact form there is rounding."
    return TextTable("Which forms are exact, and why", lead, pd.DataFrame(rows), ("Strategy", "Exact", "Reason"))


def _convergence(runs: HistoryRuns) -> TextTable:
    cells: dict[str, dict[str, str]] = {}
    for name in runs.strategies:
        tables = [record.diagnostics.get("convergence") or [] for record in runs.of(name)]
        for row in zip(*tables, strict=True) if all(tables) else []:
            net = "-".join(map(str, row[0]["dims"]))
            starts = sum(cell["starts"] for cell in row)
            share = f"{sum(cell['converged'] for cell in row)} of {starts}"
            if row[0]["predicted"] is not None:
                share += f" (theory {sum(cell['predicted'] for cell in row)})"
            cells.setdefault(net, {})[name] = share
    rows = [{"Net": net, "Hidden units": _units(net), **row} for net, row in cells.items()]
    lead = (
        "Random starts, random teachers: how many reached it. With square layers the paper's flow, and the any-width "
        "one, which is the same there, fails wherever W*W₀⁻¹ has a negative real eigenvalue, as theory says start by "
        "start. "
        "The minimum-norm form never does, and one extra hidden unit mends the paper's."
    )
    frame = pd.DataFrame(rows).fillna(MISSING)
    return TextTable("Where the paper's flow fails", lead, frame, ("Net", "Hidden units"))


def _units(net: str) -> str:
    widths = [int(width) for width in net.split("-")]
    return "square" if widths[1] == widths[0] else "one more than inputs"


def _grid(runs: HistoryRuns) -> TextTable:
    rows = []
    for name in _ordered(runs):
        for record in runs.of(name):
            for entry in record.diagnostics.get("grid", []):
                stopped = entry.get("stopped")
                rows.append(
                    {
                        "Strategy": name,
                        "Seed": str(record.seed),
                        "α": f"{entry['rate']:g}",
                        "Least test loss": _loss(value(entry.get("least_test_loss"))),
                        "Taken": "yes" if entry["rate"] == record.diagnostics["rate"] else "",
                        "Remark": _diverged(stopped) if stopped else "",
                    }
                )
    lead = (
        "Every rate that was tried, each in full and on the same examples; the best is reported, which favours grids."
    )
    return TextTable("Rates", lead, pd.DataFrame(rows), ("Strategy", "Taken", "Remark"))


def _diverged(message: str) -> str:
    return message.partition("; ")[0].partition("diverged: ")[2] or message


def _with_theory(runs: HistoryRuns) -> list[HistoryRecord]:
    return [record for name in runs.strategies for record in runs.of(name) if record.history.get("theory")]


def _findings(runs: HistoryRuns) -> list[str]:
    found = []
    for name in runs.strategies:
        diagnostics = runs.of(name)[0].diagnostics
        exactness = diagnostics.get("exactness")
        if exactness and not exactness["exact"]:
            residual = small(value(exactness["residual"]))
            found.append(f"{name} is not exact here: {exactness['reason']} (residual {residual}).")
    diagnostics = runs.records[0].diagnostics
    if diagnostics["input_rank"] < diagnostics["dims"][0]:
        found.append(
            f"The inputs' covariance has rank {diagnostics['input_rank']} of {diagnostics['dims'][0]}: "
            "pseudo-inverses take the place of inverses."
        )
    return found

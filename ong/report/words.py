"""Why a strategy forgets, in words made from its diagnostics."""

from __future__ import annotations

import math

from ong.report.columns import number
from ong.report.runs import Runs
from ong.report.tables import estimates

__all__ = ["why", "won_back"]

NO_LEAK = 1e-3
"""A step that moves stored outputs by less than this share of its length leaves them alone."""

SMALL = 0.0015
"""A difference in accuracy that three digits hardly show."""


def why(runs: Runs) -> dict[str, list[str]]:
    """Return by strategy, in the order shown, what its distance from the reference is made of, and why.

    With LA the learning accuracy, ACC = LA + BWT·(T−1)/T. So what a strategy ends below joint training is, exactly,
    what it forgot, −BWT·(T−1)/T, and what it never learned, ACC_joint − LA. Without joint training only the first part
    is told. The leak tells how far its steps move old outputs at first order, the descent cosine what that costs.
    """
    table = _means(runs)
    found = {}
    for name in (name for name in runs.strategies if not runs.is_reference(name)):
        row = table[name]
        sentences = [_ends(runs, row, table.get("joint")), _leak(name, row, table.get("naive")), _descent(row)]
        found[name] = [sentence for sentence in sentences if sentence]
    return {name: sentences for name, sentences in found.items() if sentences}


def won_back(runs: Runs) -> str:
    """Return what it means that a strategy wins back more than all that forgetting costs; empty where none does."""
    table = _means(runs)
    above = [
        f"{runs.label(name)} ({100 * table[name]['recovered']:.0f} %)"
        for name in runs.strategies
        if not runs.is_reference(name) and table[name]["recovered"] >= 1.005
    ]
    if not above:
        return ""
    return (
        f"More than 100 % won back: {', '.join(above)}. Recovered compares with joint training of as many passes, "
        "which is a reference and not a bound: who sees stored examples again, or keeps old outputs, can end above it."
    )


def _means(runs: Runs) -> dict[str, dict[str, float]]:
    everything = Runs(runs.benchmark, runs.records)  # the references count though they may not be shown
    return {name: {key: e.mean for key, e in row.items()} for name, row in estimates(everything).items()}


def _ends(runs: Runs, row: dict[str, float], joint: dict[str, float] | None) -> str:
    forgotten = -row["BWT"] * (runs.tasks - 1) / runs.tasks
    if math.isnan(forgotten):
        return ""
    lost = (
        f"forgetting costs {number(forgotten)} of its ACC"
        if forgotten > SMALL
        else f"old tasks gain {number(-forgotten)} of ACC after they were learned"
        if forgotten < -SMALL
        else "forgetting costs none of its ACC"
    )
    if joint is None or math.isnan(joint["ACC"]):
        return f"{lost[0].upper()}{lost[1:]}."
    gap, missed = joint["ACC"] - row["ACC"], joint["ACC"] - row["learning_accuracy"]
    never = (
        f"learning each task less well than joint costs {number(missed)}"
        if missed > SMALL
        else f"learning each task better than joint gains {number(-missed)}"
        if missed < -SMALL
        else "each task is learned as well as by joint"
    )
    where = "level with" if abs(gap) < 0.0005 else f"{number(abs(gap))} {'below' if gap > 0 else 'above'}"
    return f"Ends {where} joint: {lost}; {never}."


def _leak(name: str, row: dict[str, float], naive: dict[str, float] | None) -> str:
    leak, unseen = row["leak"], row.get("leak_unseen", math.nan)
    if math.isnan(leak):
        return ""
    if leak < NO_LEAK:
        rest = f", and {_share(unseen)} moves those of other old examples" if unseen >= NO_LEAK else ""
        return f"None of a step moves the outputs of stored old examples at first order{rest}."
    beside = f" (naive: {_share(naive['leak'])})" if naive and name != "naive" and not math.isnan(naive["leak"]) else ""
    return f"Of a step's length {_share(leak)} moves outputs of old examples at first order{beside}."


def _descent(row: dict[str, float]) -> str:
    cosine = row["descent_cosine"]
    if math.isnan(cosine) or cosine > 0.99:
        return ""
    if cosine < 0:
        return f"Its steps ascend the task's loss (descent cosine {number(cosine, 2)})."
    return f"For their length its steps descend the task's loss at {_share(cosine)} of the gradient's rate."


def _share(value: float) -> str:
    return f"{100 * value:.2g} %"

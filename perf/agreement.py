"""Fast paths against the plain ones: whole accuracy matrices of Permuted MNIST, 10 tasks, seed 0.

Plain is original coordinates (``eigenbasis=False``), OGD without coefficients, and a full EKFAC at each refresh where
the fast one keeps the basis of the inputs, or runs along with training. These two are other estimates of the same
Fisher, not the same numbers.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measure import one_thread, publish

from ong.experiments.plan import plan
from ong.experiments.sweep import perform
from ong.plugins import ONG
from ong.plugins.shadow import Shadow

PLAIN = {"plugins.0.eigenbasis": False}
EMPIRICAL = {"plugins.0.fisher": "empirical"}
RUNNING = {**EMPIRICAL, "plugins.0.running": True}
PAIRS: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "ong-prior": ("ong-prior", PLAIN, {}),
    "ong-prior; plain: M⁻¹ as it is": ("ong-prior", {**PLAIN, "plugins.0.scale_tolerance": 0.0}, {}),
    "ncl": ("ncl", PLAIN, {}),
    "ngd": ("ngd", PLAIN, {}),
    "ong-v1": ("ong-v1", PLAIN, {}),
    "ong": ("ong", {}, {}),
    "ogd": ("ogd", {}, {}),
    "ogd-plus": ("ogd-plus", {}, {}),
    "ngd, empirical; fast: running": ("ngd", EMPIRICAL, RUNNING),
    "ong-v1, empirical; fast: running": ("ong-v1", EMPIRICAL, RUNNING),
    "ong, empirical; fast: running": ("ong", EMPIRICAL, RUNNING),
}


@contextmanager
def plainly(wanted: bool) -> Any:
    coefficients, kept_inputs = Shadow.of, ONG._inputs_basis_stays
    if wanted:
        Shadow.of = staticmethod(lambda *_: [])  # type: ignore[method-assign, assignment]
        ONG._inputs_basis_stays = lambda *_: False  # type: ignore[method-assign]
    try:
        yield
    finally:
        Shadow.of, ONG._inputs_basis_stays = coefficients, kept_inputs  # type: ignore[method-assign]


def matrix(strategy: str, changes: Mapping[str, Any], plain: bool) -> np.ndarray:
    """The accuracy matrix of one run."""
    with tempfile.TemporaryDirectory() as folder, plainly(plain):
        (job,) = plan("permuted-mnist", [strategy], [0], changes, out=Path(folder))
        record = perform(job).record
    assert record is not None
    return np.array(record["accuracy_matrix"], dtype=float)


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    figures: dict[str, Any] = {}
    rows = [
        "| strategy | ACC, plain | ACC, fast | largest difference of two entries | mean difference |",
        "|---|---|---|---|---|",
    ]
    for title, (strategy, plain, fast) in PAIRS.items():
        one, other = matrix(strategy, plain, plain=True), matrix(strategy, fast, plain=False)
        gap = np.abs(one - other)
        figures[title] = {"plain": one[-1].mean(), "fast": other[-1].mean(), "largest": gap.max(), "mean": gap.mean()}
        rows.append(f"| {title} | {one[-1].mean():.4f} | {other[-1].mean():.4f} | {gap.max():.4f} | {gap.mean():.4f} |")
        print(rows[-1], flush=True)
    publish("agreement", figures, "\n".join(rows))


if __name__ == "__main__":
    main()

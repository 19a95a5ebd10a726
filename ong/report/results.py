"""``ong.load``: the records of a folder as tables, arrays and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ong.errors import UnknownNameError, UserError
from ong.files import write_bytes
from ong.metrics import METRICS
from ong.report.certificates import certified, promised_and_measured
from ong.report.choice import Choice
from ong.report.compare import differences
from ong.report.costs import ABOUT, Cost, draw_accuracy_against
from ong.report.document import rows_frame
from ong.report.exports import matrices_npz
from ong.report.figures import LIGHT, curve_of, draw_curves, figure_text, legend, new_axes
from ong.report.heat_maps import draw_matrix, mean_matrix
from ong.report.intervals import t_interval
from ong.report.notebooks import results_html
from ong.report.reading import read_runs
from ong.report.records import HistoryRecord, Record, understood
from ong.report.runs import HistoryRuns, Runs
from ong.report.selection import choose
from ong.report.tables import seeds_frame, summary_frame, task_frame, wide

__all__ = ["Results", "load"]


def load(directory: Path | str, metrics: str | Iterable[str | Callable[..., float]] = ()) -> Results:
    """Read every record under a directory.

    Args:
        directory: where they lie.
        metrics: of your own, made by :func:`ong.metrics.metric` or named as ``module:Name``, one or several, beside
            the usual ones.

    >>> import ong
    >>> results = ong.load("results/permuted-mnist")
    >>> list(results.table()["ACC"])
    ['mean', 'half_width', 'count']
    >>> axes = results.plot_curves()

    Raises:
        UserError: no such directory, no records in it, records that cannot be read or compared, or what is no metric.
    """
    directory = Path(directory)
    metrics = [metrics] if isinstance(metrics, str) else metrics
    chosen = [METRICS.get_or_use(m) if isinstance(m, str) else METRICS.entry(m, repr(m)) for m in metrics]
    with understood(directory):
        return Results(read_runs(directory, chosen))


class Results:
    """The runs of one or several benchmarks.

    ``results["permuted-mnist"]`` is one benchmark; tables and figures are of one, which need not be named where there
    is no other. Strategies are ordered by ``ACC``, the best first, or as :meth:`select` was told.
    """

    def __init__(self, groups: Sequence[Runs | HistoryRuns]) -> None:
        """Hold what :func:`ong.report.reading.read_runs` returned."""
        self._groups = {runs.benchmark: runs for runs in groups}

    @property
    def groups(self) -> list[Runs | HistoryRuns]:
        """The runs behind, of one benchmark each."""
        return list(self._groups.values())

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks' names."""
        return list(self._groups)

    def __getitem__(self, benchmark: str) -> Results:
        """Return one benchmark's results.

        Raises:
            UnknownNameError: it has no records here.
        """
        if benchmark not in self._groups:
            raise UnknownNameError("benchmark among the records", benchmark, self._groups)
        return Results([self._groups[benchmark]])

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def strategies(self) -> list[str]:
        """The strategies' names."""
        return self._one().strategies

    @property
    def seeds(self) -> list[int]:
        """Every seed that some strategy has."""
        return self._one().seeds

    def select(self, *strategies: str, labels: Mapping[str, str] | None = None) -> Results:
        """Return the results of some strategies, in the order given, under labels of your own.

        Colours and marks in figures stay as they are with all strategies.

        >>> import ong
        >>> results = ong.load("results/permuted-mnist")
        >>> chosen = results.select("naive", "ogd", labels={"ogd": "OGD (ours)"})
        >>> axes = chosen.plot_curves()

        Raises:
            UnknownNameError: a strategy without runs.
        """
        return Results(choose(list(self._groups.values()), Choice(tuple(dict.fromkeys(strategies)), labels or {})))

    def runs(self) -> pd.DataFrame:
        """One row a run at full precision: ``benchmark, strategy, seed``, every metric, cost and diagnostic."""
        runs = self._one()
        return seeds_frame(runs) if isinstance(runs, Runs) else rows_frame(runs)

    def table(self) -> pd.DataFrame:
        """One row a strategy; columns are pairs (quantity, ``mean`` | ``half_width`` | ``count``) over seeds.

        ``half_width`` is that of the 95% t-interval, NaN for one seed.
        """
        runs = self._one()
        if isinstance(runs, Runs):
            return summary_frame(runs)
        frame = rows_frame(runs)
        keys = [key for key in frame.columns if key not in ("benchmark", "strategy", "seed")]
        rows = {
            str(name): {key: t_interval(part[key].astype(float)) for key in keys}
            for name, part in frame.groupby("strategy", sort=False)
        }
        return wide(rows)

    def record(self, strategy: str, seed: int) -> Record | HistoryRecord:
        """Return one run's record, with all that its file holds.

        >>> import ong
        >>> ong.load("results/permuted-mnist").record("ogd", seed=0).metrics["ACC"] > 0.8
        True

        Raises:
            UnknownNameError: the strategy has no run.
            UserError: it has none of this seed.
        """
        runs = self._one()
        records = {record.seed: record for record in runs.of(self._known(runs, strategy))}
        if seed not in records:
            raise UserError(f"{strategy} has no run of seed {seed!r}; it has {', '.join(map(str, records))}")
        return records[seed]

    def matrix(self, strategy: str, seed: int | None = None) -> NDArray[np.float64]:
        """Return R with the row before training first, of shape [T + 1, T]; NaN where nothing was measured.

        Args:
            strategy: whose.
            seed: of which run; the mean over seeds if None.

        Raises:
            UnknownNameError: the strategy has no run.
            UserError: it has none of this seed.
        """
        runs = self._of_tasks()
        if seed is None:
            return mean_matrix(runs, self._known(runs, strategy))
        record = self.record(strategy, seed)
        assert isinstance(record, Record)
        return record.matrix.values.copy()

    def curves(self) -> pd.DataFrame:
        """Average accuracy over the tasks seen: ``strategy, tasks_seen, mean, half_width, count``.

        It is mean_{j≤t} R[t, j], with the 95% t-interval over seeds. Benchmarks of another kind have one row for each
        run and epoch instead, with what their history holds.
        """
        runs = self._one()
        if isinstance(runs, HistoryRuns):
            return pd.concat([_history(record.strategy_name, record.seed, record.history) for record in runs.records])
        rows = [
            (name, t + 1, e.mean, e.half_width, e.count)
            for name in runs.strategies
            for t, e in enumerate(curve_of(runs, name))
        ]
        return pd.DataFrame(rows, columns=["strategy", "tasks_seen", "mean", "half_width", "count"])

    def by_task(self, strategy: str) -> pd.DataFrame:
        """One row a task, means over seeds: accuracy ``before``, ``learned``, ``final``; every diagnostic by task."""
        runs = self._of_tasks()
        return task_frame(runs, self._known(runs, strategy))

    def compare(self, baseline: str) -> pd.DataFrame:
        """Differences from a strategy, paired by seed, in the form of :meth:`table`.

        Raises:
            UnknownNameError: no run of the baseline.
            UserError: no other strategy shares a seed with it.
        """
        return wide(differences(self._of_tasks(), baseline))

    def plot_curves(self, ax: Axes | None = None) -> Axes:
        """Draw average accuracy over the tasks seen, with 95% t-intervals over seeds.

        Of more than eight strategies the best and naive are drawn; :meth:`select` chooses others.
        """
        runs, axes = self._of_tasks(), ax or new_axes((8.6, 4.6), LIGHT)[1]
        draw_curves(axes, runs)
        legend(axes, [figure_text(runs.label(name)) for name in runs.strategies], LIGHT)
        return axes

    def plot_matrix(self, strategy: str, ax: Axes | None = None) -> Axes:
        """Draw R of a strategy, mean over its seeds."""
        runs = self._of_tasks()
        size = min(0.42 * runs.tasks + 1.5, 9.0)
        axes = ax or new_axes((size + 0.5, size + 0.2), LIGHT)[1]
        draw_matrix(axes, runs, self._known(runs, strategy))
        return axes

    def plot_against(self, cost: Cost, ax: Axes | None = None) -> Axes:
        """Draw ``ACC`` over ``"memory_bytes"`` or ``"train_seconds"``.

        Raises:
            UnknownNameError: another cost.
        """
        if cost not in ABOUT:
            raise UnknownNameError("cost", cost, ABOUT)
        runs, axes = self._of_tasks(), ax or new_axes((8.6, 4.6), LIGHT)[1]
        draw_accuracy_against(axes, runs, cost)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        return axes

    def plot_certificates(self) -> list[Axes]:
        """Draw what is promised of old outputs and what was measured, a panel a kind of output.

        Raises:
            UserError: no strategy's records have certificates.
        """
        runs = self._of_tasks()
        if not certified(runs):
            raise UserError(f"{runs.benchmark}: no record has certificates, which runs of today's ong keep")
        return promised_and_measured(runs).axes

    def to_npz(self, path: Path | str) -> None:
        """Write every R under ``BENCHMARK/STRATEGY/seed-S``, for ``numpy.load``.

        Raises:
            UserError: there is none, or the place cannot be written to.
        """
        groups = [runs for runs in self._groups.values() if isinstance(runs, Runs)]
        if not groups:
            raise UserError(f"{', '.join(self.benchmarks)}: no sequence of tasks, so there is no matrix to write")
        write_bytes(Path(path), matrices_npz(groups))

    def __repr__(self) -> str:
        return "\n".join(
            f"{runs.benchmark}: {len(runs.records)} runs, {', '.join(runs.strategies)}"
            for runs in self._groups.values()
        )

    def _repr_html_(self) -> str:
        return results_html(self._groups.values())

    def _one(self) -> Runs | HistoryRuns:
        if len(self._groups) != 1:
            raise UserError(f"several benchmarks: choose one, as in results['{self.benchmarks[0]}']; {self!r}")
        return next(iter(self._groups.values()))

    def _of_tasks(self) -> Runs:
        runs = self._one()
        if not isinstance(runs, Runs):
            raise UserError(f"{runs.benchmark} is not a sequence of tasks: it has runs(), table() and curves()")
        return runs

    @staticmethod
    def _known(runs: Runs | HistoryRuns, strategy: str) -> str:
        names = runs.names if isinstance(runs, Runs) else runs.strategies
        if strategy not in names:
            raise UnknownNameError("strategy among the records", strategy, names)
        return strategy


def _history(strategy: str, seed: int, history: Mapping[str, object]) -> pd.DataFrame:
    lists = {key: part for key, part in history.items() if isinstance(part, list)}
    length = max(map(len, lists.values()), default=0)
    frame = pd.DataFrame({key: part for key, part in lists.items() if len(part) == length})
    frame.insert(0, "strategy", strategy)
    frame.insert(1, "seed", seed)
    return frame

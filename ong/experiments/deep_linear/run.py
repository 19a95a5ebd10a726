"""One run of a deep linear benchmark: training on examples, then the steps that theory predicts."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ong.errors import UserError
from ong.experiments.deep_linear.schema import DeepLinearBenchmark, DeepLinearStrategy
from ong.experiments.deep_linear.theory import convergence_rows, exactness_row, theory_rows
from ong.experiments.progress import Progress
from ong.experiments.seeds import derived_seed
from ong.experiments.stopped import StoppedError
from ong.experiments.store import RunFolder
from ong.natural.deep_linear import (
    DeepLinearNetwork,
    DivergedError,
    EpochRecord,
    History,
    InexactFormWarning,
    LevenbergMarquardt,
    LinearProblem,
    TrainingState,
    make_data,
    make_problem,
    strategy_of,
    train,
)

__all__ = ["DeepLinearRun"]

SAVE_EVERY = 2.0
"""Seconds of training after which an epoch's end is written down."""


class DeepLinearRun:
    """A benchmark, a strategy and a seed, ready to run.

    Teacher, data and initial weights depend on the seed alone, so they are the same for every strategy; so is the order
    of the examples at every rate.
    """

    def __init__(
        self,
        benchmark: DeepLinearBenchmark,
        strategy: DeepLinearStrategy,
        seed: int,
        data_root: str | Path | None = None,
    ) -> None:
        """Draw the problem; ``data_root`` is of no use here.

        Raises:
            UserError: an unknown setting or step, widths that describe no network, no noise, or a rank or a batch that
                is too large.
        """
        self.benchmark, self.strategy, self.seed = benchmark, strategy, seed
        self.settings = {"benchmark": benchmark.settings(), "strategy": strategy.settings(), "seed": seed}
        self.chosen = strategy_of(strategy.step)
        widths = benchmark.widths
        generator = torch.Generator().manual_seed(seed)
        self.problem = _with_rank(
            make_problem(widths, generator=generator, noise=benchmark.noise), benchmark.input_rank
        )
        self.data = make_data(self.problem, generator=generator, train=benchmark.train, test=benchmark.test)
        self.network = DeepLinearNetwork.random(widths, generator=generator)
        if strategy.batch_size > benchmark.train:
            raise UserError(f"batch_size = {strategy.batch_size}, but there are {benchmark.train} training examples")
        if strategy.adapt_damping:
            LevenbergMarquardt(strategy.damping, strategy.damping_floor)
        self.target = benchmark.target if benchmark.target is not None else 1.1 * self.problem.floor
        self.grid: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.current: TrainingState | None = None
        self._saved = time.perf_counter()

    @property
    def units(self) -> int:
        """Epochs at all rates."""
        return len(self.strategy.rates) * self.strategy.epochs

    @property
    def place(self) -> dict[str, int]:
        """The epoch in training, or the last one."""
        return {"epoch": min(len(self.seconds) + 1, self.strategy.epochs), "step": 0}

    def run(self, folder: RunFolder, progress: Progress) -> dict[str, Any]:
        """Train at every rate that is not done, add what theory says, and return the record, which is written too.

        Raises:
            StoppedError: weights or loss not finite at every rate; finished epochs are kept in the checkpoint.
            UserError: a checkpoint of other settings.
        """
        shuffle = torch.Generator()
        folder.restore(self.settings, lambda saved: self._restore(saved, shuffle))
        progress.start_run(self.units, self._done(), "epoch")
        stopped: DivergedError | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InexactFormWarning)  # the record says it, with the residual
            for rate in self.strategy.rates[len(self.grid) :]:
                try:
                    history = self._train(rate, shuffle, folder, progress)
                except DivergedError as error:
                    stopped, history = error, error.history
                    self._save(folder, shuffle)
                message = None if stopped is None or stopped.history is not history else str(stopped)
                self.grid.append({"rate": rate, "epochs": _rows(history), "seconds": self.seconds, "stopped": message})
                self.current, self.seconds = None, []
            if all(entry["stopped"] for entry in self.grid):
                place = {} if stopped is None else {"epoch": stopped.epoch, "step": stopped.step}
                raise StoppedError(str(self.grid[-1]["stopped"]), **place)
            record = self._record()
        self._log(progress, record["diagnostics"]["rate"])
        folder.finish(record)
        return record

    def _train(self, rate: float, shuffle: torch.Generator, folder: RunFolder, progress: Progress) -> History:
        strategy = self.strategy
        if self.current is None:
            shuffle.manual_seed(derived_seed(self.seed, 1))
        started = [time.perf_counter()]

        def on_epoch(state: TrainingState) -> None:
            self.current = state
            self.seconds.append(time.perf_counter() - started[0])
            if time.perf_counter() - self._saved > SAVE_EVERY:
                self._save(folder, shuffle)
            progress.start_task(1)
            progress.step()
            progress.end_task()
            started[0] = time.perf_counter()

        damping: float | LevenbergMarquardt = strategy.damping
        if strategy.adapt_damping:
            damping = LevenbergMarquardt(strategy.damping, strategy.damping_floor)
        return train(
            self.network,
            self.problem,
            strategy.step,
            alpha=rate,
            epochs=strategy.epochs,
            data=self.data,
            batch_size=strategy.batch_size,
            damping=damping,
            generator=shuffle,
            resume=self.current,
            on_epoch=on_epoch,
        )[1]

    def _done(self) -> int:
        return len(self.grid) * self.strategy.epochs + len(self.seconds)

    def _save(self, folder: RunFolder, shuffle: torch.Generator) -> None:
        state = self.current
        saved: dict[str, Any] = {"grid": self.grid, "seconds": self.seconds, "current": None}
        if state is not None:
            saved["current"] = {
                "weights": list(state.network.weights),
                "epochs": _rows(state.history),
                "damping": state.damping,
                "step": state.step,
                "shuffle": shuffle.get_state(),
            }
        folder.save_checkpoint(saved, self.settings)
        self._saved = time.perf_counter()

    def _restore(self, saved: dict[str, Any], shuffle: torch.Generator) -> None:
        self.grid, self.seconds = saved["grid"], saved["seconds"]
        current = saved["current"]
        if current is not None:
            network = DeepLinearNetwork(tuple(current["weights"]))
            rate = self.strategy.rates[len(self.grid)]
            history = History(self.chosen.name, rate, network.dims, self.problem.floor)
            history.epochs.extend(EpochRecord(**row) for row in current["epochs"])
            self.current = TrainingState(network, history, current["damping"], current["step"])
            shuffle.set_state(current["shuffle"])

    def _log(self, progress: Progress, rate: float) -> None:
        """Log the training at the best rate, as only the end tells which that is."""
        best = next(entry for entry in self.grid if entry["rate"] == rate)
        for row in best["epochs"]:
            progress.log(row["epoch"], {name: value for name, value in row.items() if name != "epoch"})

    def _record(self) -> dict[str, Any]:
        finished = [entry for entry in self.grid if not entry["stopped"]]
        best = min(finished, key=_least_test_loss)
        rows: list[dict[str, Any]] = best["epochs"]
        theory = theory_rows(self.chosen, self.network, self.problem, self.benchmark.theory, derived_seed(self.seed, 2))
        reached = next((row["epoch"] for row in rows if row["test_loss"] <= self.target), None)
        started = time.perf_counter()
        convergence = convergence_rows(self.chosen, self.benchmark.convergence_seeds, self.seed)
        return self.settings | {
            "history": {key: [row[key] for row in rows] for key in rows[0]} | {"theory": theory},
            "metrics": {
                "test_loss": rows[-1]["test_loss"],
                "least_test_loss": _least_test_loss(best),
                "epochs_to_target": reached,
                "measured_rate": theory["measured_rate"] if theory else None,
                "residual": theory["residual"] if theory else None,
            },
            "diagnostics": {
                "dims": list(self.network.dims),
                "floor": self.problem.floor,
                "target": self.target,
                "input_rank": self.problem.input_rank,
                "rate": best["rate"],
                "grid": [
                    {
                        "rate": entry["rate"],
                        "least_test_loss": None if entry["stopped"] else _least_test_loss(entry),
                        "stopped": entry["stopped"],
                    }
                    for entry in self.grid
                ],
                "exactness": exactness_row(self.chosen, self.network, self.problem),
                "convergence": convergence,
            },
            "timing": {
                "train_seconds": best["seconds"],
                "total_seconds": sum(sum(entry["seconds"]) for entry in self.grid) + time.perf_counter() - started,
            },
        }


def _least_test_loss(entry: dict[str, Any]) -> float:
    return float(min(row["test_loss"] for row in entry["epochs"]))


def _rows(history: History) -> list[dict[str, Any]]:
    return [asdict(record) for record in history.epochs]


def _with_rank(problem: LinearProblem, rank: int | None) -> LinearProblem:
    """Return the problem with the smallest eigenvalues of C put to 0, so that ``rank`` are left."""
    if rank is None:
        return problem
    inputs = problem.dims[0]
    if not 1 <= rank <= inputs:
        raise UserError(f"input_rank = {rank}: the covariance of {inputs} inputs has a rank between 1 and {inputs}")
    values, vectors = torch.linalg.eigh(problem.input_cov)
    values[: inputs - rank] = 0
    cov = (vectors * values) @ vectors.T
    return LinearProblem(0.5 * (cov + cov.T), problem.teacher, problem.noise_cov)

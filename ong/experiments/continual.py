"""One run of a continual benchmark: a strategy learns task after task, and R is taken after each."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from avalanche.benchmarks import split_online_stream
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.training.supervised import Cumulative, JointTraining

from ong.errors import UserError
from ong.experiments import avalanche_state
from ong.experiments.diagnostics import quantities_of
from ong.experiments.learner import make_learner
from ong.experiments.progress import Progress
from ong.experiments.run_plugins import AccuracyRecorder, DivergenceGuard, FewSteps, MeanLoss, StepCounter
from ong.experiments.schema import ContinualBenchmark, ContinualStrategy
from ong.experiments.seeds import derived_seed, seeded
from ong.experiments.store import RunFolder
from ong.methods.packing import packed_bytes
from ong.metrics import AccuracyMatrix, all_metrics
from ong.plugins import Diagnostic, MethodPlugin
from ong.streams import InMemoryLoader
from ong.streams.experiences.augment import Augmentation

__all__ = ["ContinualRun"]


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Keep quiet about Avalanche calling its own deprecated functions; it overrides any filter when it does."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_others(message: Any, *rest: Any, **options: Any) -> None:
            if not str(message).startswith("Call to deprecated"):
                show(message, *rest, **options)

        warnings.showwarning = show_others
        yield


class ContinualRun:
    """A benchmark, a strategy and a seed, ready to run.

    The net's initial weights and the order of the data depend on the seed alone, so they are the same for every
    strategy; all global generators are seeded anew before each task, so that a run resumed at a task boundary goes on
    to the bit.
    """

    def __init__(
        self,
        benchmark: ContinualBenchmark,
        strategy: ContinualStrategy,
        seed: int,
        data_root: str | Path | None = None,
    ) -> None:
        """Build everything, so that whatever is wrong with the recipes shows before anything runs.

        Raises:
            UserError: whatever is wrong with the recipes or the data.
        """
        self.benchmark, self.recipe, self.seed = benchmark, strategy, seed
        self.settings = {
            "benchmark": benchmark.settings(),
            "strategy": strategy.settings(),
            "seed": seed,
        }
        made = make_learner(benchmark, strategy, seed, data_root)
        self.stream, self.device, self.learner, self.plugins = made.stream, made.device, made.learner, made.plugins
        self.diagnostics, self.certificate, self.own = made.diagnostics, made.certificate, made.own
        self.recorder = made.recorder
        self.joint = isinstance(self.learner, JointTraining)
        self.rows: list[list[float]] = []
        self.train_seconds: list[float] = []
        self.evaluate_seconds: list[float] = []
        self.memory_bytes: list[int] = []
        self.statistics: list[dict[str, float]] = []
        self._epoch, self._logging_seconds = 0, 0.0

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return len(self.stream.train_stream)

    @property
    def units(self) -> int:
        """Tasks that are announced one by one; joint training is a single one."""
        return 1 if self.joint else self.tasks

    @property
    def place(self) -> dict[str, int]:
        """The task in training."""
        return {"task": max(len(self.rows) - 1, 0), "step": 0}

    def run(self, folder: RunFolder, progress: Progress) -> dict[str, Any]:
        """Train what is not yet trained and return the record, which is written to the folder too.

        Raises:
            DivergenceError: a loss or output that is not finite; finished tasks are kept in the checkpoint.
            UserError: a checkpoint of other settings.
        """
        folder.restore(self.settings, self._restore)
        stuck = [plugin for plugin in self._stateful() if not avalanche_state.fits_a_checkpoint(plugin)]
        if stuck:
            warnings.warn(
                f"{type(stuck[0]).__name__} has no state_dict and load_state_dict, of tensors and plain values, that "
                "tell all it keeps: this run cannot be resumed",
                stacklevel=2,
            )
        self.learner.plugins.insert(0, StepCounter(progress.start_task, progress.step))
        loss = MeanLoss(lambda: self._end_epoch(progress, loss))
        self.learner.plugins.append(loss)
        if not self.rows:
            self._evaluate()
        steps = self.units
        progress.start_run(steps, len(self.rows) - 1)
        for done in range(len(self.rows)):
            progress.log(done * self._epochs, self._measured(done))
        while len(self.rows) <= steps:
            self._train(len(self.rows) - 1)
            self._evaluate()
            done = len(self.rows) - 1
            progress.log(done * self._epochs, {"loss": loss.take()} | self._measured(done))
            progress.end_task()
            if not stuck and len(self.rows) <= steps:
                folder.save_checkpoint(self._state(), self.settings)
        record = self._record()
        folder.finish(record, str(self.device))
        return record

    def _train(self, task: int) -> None:
        with seeded(derived_seed(self.seed, 4, task)), _without_deprecations():
            self._epoch, self._logging_seconds = 0, 0.0
            start = time.perf_counter()
            self.learner.train(self._experiences(task), eval_streams=[])
            self.train_seconds.append(time.perf_counter() - start - self._logging_seconds)
        self.memory_bytes.append(self._kept())
        allowed = self.recipe.memory
        if allowed is not None and allowed.budget is not None and self.memory_bytes[-1] > allowed.budget:
            raise UserError(
                f"{self.memory_bytes[-1]} bytes are kept after task {task}, more than memory.budget = "
                f"{allowed.budget}; lower {allowed.knob}"
            )
        ours = [plugin.statistics() for plugin in self.plugins if isinstance(plugin, MethodPlugin)]
        self.statistics.append(ours[0] if ours else {})

    @property
    def _epochs(self) -> int:
        """Passes over a task that are logged one by one; an online stream's are over pieces."""
        training = self.benchmark.training
        return training.epochs if training.online is None else 1

    def _end_epoch(self, progress: Progress, loss: MeanLoss) -> None:
        """Log the loss of a pass; that of a task's last one goes with what is measured after it."""
        self._epoch += 1
        if self._epoch < self._epochs:
            start = time.perf_counter()
            progress.log((len(self.rows) - 1) * self._epochs + self._epoch, {"loss": loss.take()})
            self._logging_seconds += time.perf_counter() - start

    def _measured(self, done: int) -> dict[str, float | None]:
        """Return what was measured after so many tasks, as loggers are told it; means are over the tasks so far."""
        row = self.rows[done]
        values: dict[str, float | None] = {f"accuracy/task-{task}": accuracy for task, accuracy in enumerate(row)}
        values["cost/evaluate_seconds"] = self.evaluate_seconds[done]
        if not done:
            return values
        values["ACC"] = fmean(row if self.joint else row[:done])
        if not self.joint:
            values["learning_accuracy"] = fmean(self.rows[task + 1][task] for task in range(done))
        for name, by_task in self._by_task().items():
            group = "cost" if name in ("memory_bytes", "train_seconds") else "diagnostics"
            values[f"{group}/{name}"] = by_task[done - 1]
        return values

    def _experiences(self, task: int) -> Any:
        """Return what is trained on: a task, the pieces of it, or all tasks at once."""
        if self.joint:
            return self.stream.train_stream
        experience, size = self.stream.train_stream[task], self.benchmark.training.online
        if size is None:
            return experience
        seed = derived_seed(self.seed, 6, task)
        pieces = list(split_online_stream([experience], size, access_task_boundaries=True, seed=seed))
        for name in ("task_label", "task_labels"):  # of a task that the model is told
            if hasattr(experience, name):
                for piece in pieces:
                    setattr(piece, name, getattr(experience, name))
        return pieces

    def _kept(self) -> int:
        """Return what a strategy keeps from task to task, in bytes: its plugins' states, or all data it has seen."""
        data = avalanche_state.bytes_of_examples(self.learner.dataset) if isinstance(self.learner, Cumulative) else 0
        in_network = packed_bytes(avalanche_state.get_model_state(self.learner.model)["beside"])
        return data + in_network + sum(_bytes(part) for part in self._stateful() if not isinstance(part, Diagnostic))

    def _evaluate(self) -> None:
        start = time.perf_counter()
        with seeded(derived_seed(self.seed, 5)):  # heads that Avalanche gives the model when it meets their task
            for experience in self.stream.test_stream if self.joint else ():  # joint training does not by itself
                avalanche_model_adaptation(self.learner.model, experience)
            self.learner.eval(self.stream.test_stream)
        self.evaluate_seconds.append(time.perf_counter() - start)
        self.rows.append(list(self.recorder.accuracies))

    def _stateful(self) -> list[Any]:
        """Return what keeps something from task to task: plugins, those that a template added too, and the template."""
        passing = (InMemoryLoader, Augmentation, DivergenceGuard, AccuracyRecorder, StepCounter, FewSteps, MeanLoss)
        return [*(plugin for plugin in self.learner.plugins if not isinstance(plugin, passing)), self.learner]

    def _state(self) -> dict[str, Any]:
        learner = self.learner
        return {
            "rows": self.rows,
            "train_seconds": self.train_seconds,
            "evaluate_seconds": self.evaluate_seconds,
            "memory_bytes": self.memory_bytes,
            "statistics": self.statistics,
            "model": avalanche_state.get_model_state(learner.model),
            "optimizer": learner.optimizer.state_dict(),
            "plugins": [avalanche_state.get_state(plugin) for plugin in self._stateful()],
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        learner = self.learner
        self.rows, self.memory_bytes, self.statistics = saved["rows"], saved["memory_bytes"], saved["statistics"]
        self.train_seconds, self.evaluate_seconds = saved["train_seconds"], saved["evaluate_seconds"]
        for stream in (self.stream.test_stream, self.stream.train_stream[: len(self.rows) - 1]):
            learner.is_training = stream is not self.stream.test_stream
            learner.model.train(learner.is_training)
            for experience in stream:  # growing heads reach the size they had
                learner.experience = experience
                learner.model = learner.model_adaptation()
        avalanche_state.set_model_state(learner.model, saved["model"])
        learner.make_optimizer(reset_optimizer_state=True)  # Avalanche would reset it at the next task otherwise
        learner.optimizer.load_state_dict(saved["optimizer"])
        for plugin, state in zip(self._stateful(), saved["plugins"], strict=True):
            avalanche_state.set_state(plugin, copy.deepcopy(state), learner)
        if isinstance(learner, Cumulative):
            done = [experience.dataset for experience in self.stream.train_stream[: len(self.rows) - 1]]
            learner.dataset = done[0]
            for dataset in done[1:]:
                learner.dataset = concat_datasets([learner.dataset, dataset])

    def _by_task(self) -> dict[str, list[Any]]:
        """Return what was measured and kept of each finished task."""
        by_task: dict[str, list[Any]] = (
            self.diagnostics.measures
            | self.certificate.measures
            | {
                "memory_bytes": self.memory_bytes,
                "train_seconds": self.train_seconds,
            }
        )
        for diagnostic in self.own:
            by_task |= diagnostic.measures
        for name in ("directions", "directions_dropped", "directions_captured"):
            if any(name in found for found in self.statistics):
                by_task[name] = [found.get(name) for found in self.statistics]
        return by_task

    def _record(self) -> dict[str, Any]:
        rows, by_task = self.rows, self._by_task()
        if self.joint:  # it passes over all tasks at once: only the last task's row and numbers exist
            rows = [rows[0], *[[math.nan] * self.tasks for _ in range(self.tasks - 1)], rows[1]]
            by_task = {name: [None] * (self.tasks - 1) + values for name, values in by_task.items()}
        timing = {
            "train_seconds": by_task.pop("train_seconds"),
            "evaluate_seconds": self.evaluate_seconds,
            "total_seconds": sum(self.train_seconds) + sum(self.evaluate_seconds),
        }
        return self.settings | {
            "accuracy_matrix": rows,
            "metrics": all_metrics(AccuracyMatrix(np.array(rows))),
            "diagnostics": by_task | {"steps": self.diagnostics.steps},
            "timing": timing,
            **quantities_of(self.own),
        }


def _bytes(plugin: Any) -> int:
    """Return what a plugin keeps from task to task, in bytes: its own account, or the tensors of its state."""
    if isinstance(plugin, MethodPlugin):
        return plugin.memory_bytes
    return avalanche_state.bytes_kept(plugin) or 0

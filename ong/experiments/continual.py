"""One run of a continual benchmark: a strategy learns task after task, and R is taken after each."""

from __future__ import annotations

import copy
import math
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.core import BasePlugin
from avalanche.training.supervised import Cumulative, JointTraining
from avalanche.training.templates import SupervisedTemplate

from ong.experiments import avalanche_state
from ong.experiments.build import build, build_model, build_optimizer, resolve
from ong.experiments.devices import resolve_device
from ong.experiments.progress import Progress
from ong.experiments.run_plugins import AccuracyRecorder, DivergenceGuard, NoMetrics, StepCounter
from ong.experiments.schema import Buildable, ContinualBenchmark, ContinualStrategy
from ong.experiments.seeds import derived_seed
from ong.experiments.store import RunFolder
from ong.metrics import AccuracyMatrix, all_metrics
from ong.plugins import Diagnostics, MethodPlugin
from ong.streams import InMemoryLoader, build_stream, load_dataset, output_count

__all__ = ["ContinualRun"]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed every global generator inside, put them back after: Avalanche's shuffles and buffers draw from them."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002


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
        self.device = resolve_device(benchmark.training.device)
        dataset = load_dataset(benchmark.dataset, data_root)
        self.stream = build_stream(benchmark.stream.name, dataset, seed, **benchmark.stream.options)
        with _seeded(derived_seed(seed, 0)):
            shape = self.stream.train_stream[0].dataset[0][0].shape
            tasks = len({label for e in self.stream.train_stream for label in getattr(e, "task_labels", (0,))})
            model = build_model(benchmark.model, tuple(shape), output_count(self.stream), heads=tasks > 1)
        model = model.to(self.device)
        self.plugins: list[Any] = [
            build(plugin, BasePlugin, "plugin", seed=derived_seed(seed, 1)) for plugin in strategy.plugins
        ]
        self.diagnostics = Diagnostics(seed=derived_seed(seed, 1))
        self.recorder = AccuracyRecorder()
        template = resolve(strategy.template, SupervisedTemplate, "template")
        training = benchmark.training
        self.learner: Any = build(
            Buildable(use=strategy.template),
            SupervisedTemplate,
            "template",
            model=model,
            optimizer=build_optimizer(strategy.optimizer, model),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=training.batch_size,
            train_epochs=training.epochs,
            eval_mb_size=training.eval_batch_size,
            device=self.device,
            plugins=[
                InMemoryLoader(seed=derived_seed(seed, 3)),
                self.diagnostics,
                *self.plugins,
                DivergenceGuard(),
                self.recorder,
            ],
            evaluator=NoMetrics(),
        )
        self.joint = issubclass(template, JointTraining)
        self.rows: list[list[float]] = []
        self.train_seconds: list[float] = []
        self.evaluate_seconds: list[float] = []
        self.memory_bytes: list[int] = []
        self.statistics: list[dict[str, float]] = []

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
        saved = folder.checkpoint(self.settings)
        if saved is not None:
            self._restore(saved)
        stuck = [plugin for plugin in self._stateful() if not avalanche_state.fits_a_checkpoint(plugin)]
        if stuck:
            warnings.warn(
                f"{type(stuck[0]).__name__} has no state_dict and load_state_dict, of tensors and plain values: this "
                "run cannot be resumed",
                stacklevel=2,
            )
        self.learner.plugins.insert(0, StepCounter(progress.start_task, progress.step))
        if not self.rows:
            self._evaluate()
        steps = self.units
        progress.start_run(steps, len(self.rows) - 1)
        while len(self.rows) <= steps:
            self._train(len(self.rows) - 1)
            self._evaluate()
            progress.end_task()
            if not stuck and len(self.rows) <= steps:
                folder.save_checkpoint(self._state(), self.settings)
        record = self._record()
        folder.finish(record, str(self.device))
        return record

    def _train(self, task: int) -> None:
        with _seeded(derived_seed(self.seed, 4, task)), _without_deprecations():
            start = time.perf_counter()
            experiences = self.stream.train_stream if self.joint else self.stream.train_stream[task]
            self.learner.train(experiences, eval_streams=[])
            self.train_seconds.append(time.perf_counter() - start)
        self.memory_bytes.append(self._kept())
        ours = [plugin.statistics() for plugin in self.plugins if isinstance(plugin, MethodPlugin)]
        self.statistics.append(ours[0] if ours else {})

    def _kept(self) -> int:
        """Return what a strategy keeps from task to task, in bytes: its plugins' states, or all data it has seen."""
        past = self.learner.dataset if isinstance(self.learner, Cumulative) else []
        data = len(past) * _tensor_bytes(past[0][0]) if past else 0
        return data + sum(_bytes(p) for p in self._stateful() if p is not self.diagnostics)

    def _evaluate(self) -> None:
        start = time.perf_counter()
        with _seeded(derived_seed(self.seed, 5)):  # heads that Avalanche gives the model when it meets their task
            self.learner.eval(self.stream.test_stream)
        self.evaluate_seconds.append(time.perf_counter() - start)
        self.rows.append(list(self.recorder.accuracies))

    def _stateful(self) -> list[Any]:
        """Return the plugins that keep something from task to task, those that a template added too."""
        passing = (InMemoryLoader, DivergenceGuard, AccuracyRecorder, StepCounter)
        return [plugin for plugin in self.learner.plugins if not isinstance(plugin, passing)]

    def _state(self) -> dict[str, Any]:
        learner = self.learner
        return {
            "rows": self.rows,
            "train_seconds": self.train_seconds,
            "evaluate_seconds": self.evaluate_seconds,
            "memory_bytes": self.memory_bytes,
            "statistics": self.statistics,
            "model": learner.model.state_dict(),
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
        learner.model.load_state_dict(saved["model"])
        learner.make_optimizer(reset_optimizer_state=True)  # Avalanche would reset it at the next task otherwise
        learner.optimizer.load_state_dict(saved["optimizer"])
        for plugin, state in zip(self._stateful(), saved["plugins"], strict=True):
            avalanche_state.set_state(plugin, copy.deepcopy(state), learner)
        if isinstance(learner, Cumulative):
            done = [experience.dataset for experience in self.stream.train_stream[: len(self.rows) - 1]]
            learner.dataset = done[0]
            for dataset in done[1:]:
                learner.dataset = concat_datasets([learner.dataset, dataset])

    def _record(self) -> dict[str, Any]:
        rows: list[list[float]] = self.rows
        by_task: dict[str, list[Any]] = self.diagnostics.measures | {
            "memory_bytes": self.memory_bytes,
            "train_seconds": self.train_seconds,
        }
        for name in ("directions", "directions_dropped", "directions_captured"):
            if any(name in found for found in self.statistics):
                by_task[name] = [found.get(name) for found in self.statistics]
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
        }


def _bytes(plugin: Any) -> int:
    """Return what a plugin keeps from task to task, in bytes: its own account, or the tensors of its state."""
    if isinstance(plugin, MethodPlugin):
        return plugin.memory_bytes
    return _tensor_bytes(avalanche_state.get_state(plugin)) if avalanche_state.is_resumable(plugin) else 0


def _tensor_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(_tensor_bytes(part) for part in state.values())
    if isinstance(state, list | tuple):
        return sum(_tensor_bytes(part) for part in state)
    return 0

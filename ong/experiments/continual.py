"""One run of a continual benchmark: a strategy learns task after task, and R is taken after each."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.benchmarks.utils.utils import concat_datasets
from avalanche.core import BasePlugin
from avalanche.models.dynamic_modules import avalanche_model_adaptation
from avalanche.training.supervised import Cumulative, JointTraining
from avalanche.training.templates import BaseSGDTemplate

from ong.errors import UnknownNameError, UserError
from ong.experiments import avalanche_state
from ong.experiments.build import build, build_optimizer
from ong.experiments.data import load_dataset
from ong.experiments.devices import resolve_device
from ong.experiments.models.build import build_model, parts_of
from ong.experiments.progress import Progress
from ong.experiments.run_plugins import AccuracyRecorder, DivergenceGuard, NoMetrics, OneStep, StepCounter
from ong.experiments.schema import ContinualBenchmark, ContinualStrategy
from ong.experiments.seeds import derived_seed, seeded
from ong.experiments.store import RunFolder
from ong.methods.packing import packed_bytes
from ong.metrics import AccuracyMatrix, all_metrics
from ong.plugins import Certificate, Diagnostics, MethodPlugin
from ong.streams import InMemoryLoader, build_stream, output_count
from ong.streams.augment import AUGMENTATIONS, Augmentation

__all__ = ["ContinualRun"]

_MEASURED, _APART = 20, 25  # about so many steps of a task are measured, at least so far apart


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
        if benchmark.training.validation:
            dataset = [d.for_validation() for d in dataset] if isinstance(dataset, list) else dataset.for_validation()
        self.stream = build_stream(benchmark.stream.name, dataset, seed, **benchmark.stream.options)
        with seeded(derived_seed(seed, 0)):
            shape = self.stream.train_stream[0].dataset[0][0].shape
            tasks = len({label for e in self.stream.train_stream for label in getattr(e, "task_labels", (0,))})
            outputs, heads = output_count(self.stream), tasks > 1 and strategy.wrapper is None
            model = build_model(benchmark.model, tuple(shape), outputs, heads=heads)
            if strategy.wrapper is not None:
                model = build(strategy.wrapper, torch.nn.Module, "wrapper", **parts_of(model))
        model = model.to(self.device)
        training = benchmark.training
        for_plugins: dict[str, Any] = {
            "seed": derived_seed(seed, 1),
            "model": model,
            "input_size": tuple(shape),
            "n_classes": outputs,
            "p_size": outputs,
            "batch_size_mem": training.batch_size,
        }
        self.plugins: list[Any] = [build(plugin, BasePlugin, "plugin", **for_plugins) for plugin in strategy.plugins]
        longest = max(len(experience.dataset) for experience in self.stream.train_stream)
        steps = math.ceil(longest / training.batch_size) * training.epochs
        self.diagnostics = Diagnostics(every=max(_APART, steps // _MEASURED), seed=derived_seed(seed, 1))
        self.certificate = Certificate(seed=derived_seed(seed, 1), test_stream=self.stream.test_stream)
        self.recorder = AccuracyRecorder()
        optimizer = build_optimizer(strategy.optimizer, model)
        if any(isinstance(plugin, MethodPlugin) for plugin in self.plugins):
            watched = [self.certificate, *self.plugins]
        else:  # Avalanche's plugins change weights at the end of a task
            watched = [*self.plugins, self.certificate]
        with seeded(derived_seed(seed, 2)):  # a template may make networks of its own
            self.learner: Any = build(
                strategy.template,
                BaseSGDTemplate,
                "template",
                **parts_of(model),
                batch_size_mem=training.batch_size,
                buffer_transform=None,
                optimizer=optimizer,
                criterion=torch.nn.CrossEntropyLoss(),
                train_mb_size=training.batch_size,
                train_epochs=training.epochs,
                eval_mb_size=training.eval_batch_size,
                device=self.device,
                plugins=[
                    InMemoryLoader(seed=derived_seed(seed, 3)),
                    *self._augmentation(tuple(shape)),
                    self.diagnostics,
                    *watched,
                    DivergenceGuard(),
                    self.recorder,
                ],
                evaluator=NoMetrics(),
            )
        if self.learner.optimizer is None:  # streaming LDA
            self.learner.optimizer = optimizer
        self.joint = isinstance(self.learner, JointTraining)
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
        folder.restore(self.settings, self._restore)
        stuck = [plugin for plugin in self._stateful() if not avalanche_state.fits_a_checkpoint(plugin)]
        if stuck:
            warnings.warn(
                f"{type(stuck[0]).__name__} has no state_dict and load_state_dict, of tensors and plain values, that "
                "tell all it keeps: this run cannot be resumed",
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

    def rehearse(self) -> int:
        """Take one step in each task, and return the most bytes kept after any: as many as the whole run keeps.

        Raises:
            UserError: a plugin whose state cannot be told, a strategy that does not bear tasks of one step.
        """
        if self.joint:
            return 0
        for plugin in self._stateful():
            if avalanche_state.bytes_kept(plugin) is None:
                raise UserError(f"{type(plugin).__name__} has no state_dict, so what it keeps cannot be measured")
        watching = (self.diagnostics, self.certificate)
        self.learner.plugins = [*(p for p in self.learner.plugins if p not in watching), OneStep()]
        for task in range(self.tasks):
            try:
                self._train(task)
            except UserError:
                raise
            except (AssertionError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"strategy '{self.recipe.name}' does not bear tasks of one step, by which memory is measured "
                    f"({error}); size it by hand"
                ) from None
        return max(self.memory_bytes)

    def _train(self, task: int) -> None:
        with seeded(derived_seed(self.seed, 4, task)), _without_deprecations():
            start = time.perf_counter()
            self.learner.train(self._experiences(task), eval_streams=[])
            self.train_seconds.append(time.perf_counter() - start)
        self.memory_bytes.append(self._kept())
        allowed = self.recipe.memory
        if allowed is not None and allowed.budget is not None and self.memory_bytes[-1] > allowed.budget:
            raise UserError(
                f"{self.memory_bytes[-1]} bytes are kept after task {task}, more than memory.budget = "
                f"{allowed.budget}; lower {allowed.knob}"
            )
        ours = [plugin.statistics() for plugin in self.plugins if isinstance(plugin, MethodPlugin)]
        self.statistics.append(ours[0] if ours else {})

    def _experiences(self, task: int) -> Any:
        """Return what is trained on: a task, the pieces of it, or all tasks at once."""
        if self.joint:
            return self.stream.train_stream
        experience, size = self.stream.train_stream[task], self.benchmark.training.online
        if size is None:
            return experience
        seed = derived_seed(self.seed, 6, task)
        return list(split_online_stream([experience], size, access_task_boundaries=True, seed=seed))

    def _augmentation(self, shape: tuple[int, ...]) -> list[Augmentation]:
        """Return the plugin that changes training images, if any do."""
        transforms = []
        for part in self.benchmark.training.augment:
            if not isinstance(part, str):
                transforms.append(build(part, object, "augment"))
            elif part in AUGMENTATIONS:
                transforms.append(AUGMENTATIONS[part](*shape[1:]))
            else:
                raise UnknownNameError("augmentation", part, AUGMENTATIONS)
        return [Augmentation(transforms, seed=derived_seed(self.seed, 7))] if transforms else []

    def _kept(self) -> int:
        """Return what a strategy keeps from task to task, in bytes: its plugins' states, or all data it has seen."""
        data = avalanche_state.bytes_of_examples(self.learner.dataset) if isinstance(self.learner, Cumulative) else 0
        in_network = packed_bytes(avalanche_state.get_model_state(self.learner.model)["beside"])
        watching = (self.diagnostics, self.certificate)
        return data + in_network + sum(_bytes(part) for part in self._stateful() if part not in watching)

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
        passing = (InMemoryLoader, Augmentation, DivergenceGuard, AccuracyRecorder, StepCounter, OneStep)
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

    def _record(self) -> dict[str, Any]:
        rows: list[list[float]] = self.rows
        by_task: dict[str, list[Any]] = (
            self.diagnostics.measures
            | self.certificate.measures
            | {
                "memory_bytes": self.memory_bytes,
                "train_seconds": self.train_seconds,
            }
        )
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
    return avalanche_state.bytes_kept(plugin) or 0

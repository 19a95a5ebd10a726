"""An Avalanche strategy made from recipes, with its stream and whatever watches it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from avalanche.core import BasePlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import BaseSGDTemplate

from ong.errors import UnknownNameError, UserError
from ong.experiments.build import build, build_optimizer
from ong.experiments.data import load_dataset, make_stream
from ong.experiments.devices import resolve_device
from ong.experiments.diagnostics import own_diagnostics
from ong.experiments.models.build import build_model, parts_of
from ong.experiments.run_plugins import AccuracyRecorder, DivergenceGuard, NoMetrics
from ong.experiments.schema import ContinualBenchmark, ContinualStrategy
from ong.experiments.seeds import derived_seed, seeded
from ong.plugins import Certificate, Diagnostics, MethodPlugin
from ong.plugins.diagnostics import Diagnostic
from ong.streams import InMemoryLoader, output_count
from ong.streams.experiences.augment import AUGMENTATIONS, Augmentation

__all__ = ["Learner", "make_learner"]

_MEASURED, _APART = 20, 25  # about so many steps of a task are measured, at least so far apart
_MOST = 1000  # directions of the finished tasks that leak is measured against


@dataclass(frozen=True)
class Learner:
    """What trains and what measures.

    Attributes:
        stream: the benchmark's.
        device: where the model is.
        learner: the Avalanche strategy.
        plugins: those of the strategy's recipe.
        diagnostics: the usual diagnostics.
        certificate: the bound on how far old outputs move.
        own: diagnostics that the benchmark's recipe adds.
        recorder: accuracies of the last evaluation.
    """

    stream: Any
    device: torch.device
    learner: Any
    plugins: list[Any]
    diagnostics: Diagnostics
    certificate: Certificate
    own: list[Diagnostic]
    recorder: AccuracyRecorder


def make_learner(
    benchmark: ContinualBenchmark, strategy: ContinualStrategy, seed: int, data_root: str | Path | None
) -> Learner:
    """Build everything; each part draws from a generator of its own.

    Raises:
        UserError: whatever is wrong with the recipes or the data.
    """
    device = resolve_device(benchmark.training.device)
    dataset = load_dataset(benchmark.dataset, data_root)
    training = benchmark.training
    if training.validation:
        dataset = [d.for_validation() for d in dataset] if isinstance(dataset, list) else dataset.for_validation()
    stream = make_stream(benchmark.stream, dataset, seed)
    with seeded(derived_seed(seed, 0)):
        shape = tuple(stream.train_stream[0].dataset[0][0].shape)
        tasks = len({label for e in stream.train_stream for label in getattr(e, "task_labels", (0,))})
        outputs, heads = output_count(stream), tasks > 1 and strategy.wrapper is None
        model = build_model(benchmark.model, shape, outputs, heads=heads)
        if strategy.wrapper is not None:
            model = build(strategy.wrapper, torch.nn.Module, "wrapper", **parts_of(model))
    model = model.to(device)
    for_plugins: dict[str, Any] = {
        "seed": derived_seed(seed, 1),
        "model": model,
        "input_size": shape,
        "n_classes": outputs,
        "p_size": outputs,
        "batch_size_mem": training.batch_size,
    }
    plugins: list[Any] = [build(plugin, BasePlugin, "plugin", **for_plugins) for plugin in strategy.plugins]
    methods = [type(plugin).__name__ for plugin in plugins if isinstance(plugin, MethodPlugin)]
    if len(methods) > 1:
        raise UserError(f"strategy '{strategy.name}': {' and '.join(methods)} each rewrite the steps; keep one")
    steps = math.ceil(max(len(e.dataset) for e in stream.train_stream) / training.batch_size) * training.epochs
    diagnostics = Diagnostics(every=max(_APART, steps // _MEASURED), max_directions=_MOST, seed=derived_seed(seed, 1))
    certificate = Certificate(seed=derived_seed(seed, 1), test_stream=stream.test_stream)
    own = own_diagnostics(benchmark.diagnostics, (diagnostics, certificate), **for_plugins)
    recorder = AccuracyRecorder()
    optimizer = build_optimizer(strategy.optimizer, model)
    if any(isinstance(plugin, MethodPlugin) for plugin in plugins):
        watched = [certificate, *plugins]
    else:  # Avalanche's plugins change weights at the end of a task
        watched = [*plugins, certificate]
    with seeded(derived_seed(seed, 2)):  # a template may make networks of its own
        learner: Any = build(
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
            device=device,
            plugins=[
                InMemoryLoader(seed=derived_seed(seed, 3)),
                *_augmentation(benchmark, shape, derived_seed(seed, 7)),
                diagnostics,
                *own,
                *watched,
                DivergenceGuard(),
                recorder,
            ],
            evaluator=NoMetrics(),
        )
    if learner.optimizer is None:  # streaming LDA
        learner.optimizer = optimizer
    if (generator := getattr(learner, "generator_strategy", None)) is not None:  # its own bars and lines
        generator.evaluator = NoMetrics()
        others = (plugin for plugin in generator.plugins if not isinstance(plugin, EvaluationPlugin))
        generator.plugins = [*others, generator.evaluator]
    return Learner(stream, device, learner, plugins, diagnostics, certificate, own, recorder)


def _augmentation(benchmark: ContinualBenchmark, shape: tuple[int, ...], seed: int) -> list[Augmentation]:
    """Return the plugin that changes training images, if any do."""
    transforms = []
    for part in benchmark.training.augment:
        if not isinstance(part, str):
            transforms.append(build(part, object, "augment"))
        elif part in AUGMENTATIONS:
            transforms.append(AUGMENTATIONS[part](*shape[1:]))
        else:
            raise UnknownNameError("augmentation", part, AUGMENTATIONS)
    return [Augmentation(transforms, seed=seed)] if transforms else []

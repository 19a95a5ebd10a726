"""One run of a Fisher-variance benchmark: a net is trained, its Fisher's estimates are measured on the way."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ong.errors import UnknownNameError, UserError
from ong.experiments.fisher.measure import draws_table, ekfac_rows, layer_rows
from ong.experiments.fisher.schema import FisherBenchmark, FisherStrategy
from ong.experiments.progress import Progress
from ong.experiments.seeds import derived_seed
from ong.experiments.stopped import StoppedError
from ong.experiments.store import RunFolder
from ong.streams import TensorLoader, load_dataset
from ong.streams.transforms import Normalisation

__all__ = ["ACTIVATIONS", "FisherRun"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
}


class FisherRun:
    """A benchmark, a strategy (an activation) and a seed, ready to run.

    Initial weights, order of the images and random draws depend on the seed alone; everything is float64, as variances
    are fourth powers of gradients.
    """

    def __init__(
        self, benchmark: FisherBenchmark, strategy: FisherStrategy, seed: int, data_root: str | Path | None = None
    ) -> None:
        """Load the data and build the net.

        Raises:
            UserError: an unknown data set or activation, or more images to measure or to step on than there are.
        """
        self.benchmark, self.strategy, self.seed = benchmark, strategy, seed
        self.settings = {"benchmark": benchmark.settings(), "strategy": strategy.settings(), "seed": seed}
        if strategy.activation not in ACTIVATIONS:
            raise UnknownNameError("activation", strategy.activation, ACTIVATIONS)
        images = load_dataset(benchmark.dataset, data_root)
        normalised = Normalisation(images)
        self.train = (normalised(images.train_images).double().flatten(1), images.train_labels)
        self.test = (normalised(images.test_images).double().flatten(1), images.test_labels)
        self.classes = images.classes
        count = len(self.train[0])
        for what, asked in (
            ("measure.inputs", benchmark.measure.inputs),
            ("batch_size", benchmark.training.batch_size),
        ):
            if asked > count:
                raise UserError(f"{what} = {asked}, but '{benchmark.dataset}' has {count} training images")
        picked = torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(seed, 2)))
        self.inputs = self.train[0][picked[: benchmark.measure.inputs]]
        self.model = self._model()
        self.rows: list[dict[str, Any]] = []
        self.train_seconds: list[float] = []
        self.measure_seconds: list[float] = []

    @property
    def units(self) -> int:
        """Measurements: before training and after every epoch."""
        return self.benchmark.training.epochs + 1

    @property
    def place(self) -> dict[str, int]:
        """The epoch in training; 0 is before training."""
        return {"epoch": len(self.rows), "step": 0}

    def run(self, folder: RunFolder, progress: Progress) -> dict[str, Any]:
        """Train and measure what is not done and return the record, which is written to the folder too.

        Raises:
            StoppedError: a loss that is not finite; finished epochs are kept in the checkpoint.
            UserError: a checkpoint of other settings.
        """
        folder.restore(self.settings, self._restore)
        progress.start_run(self.units, len(self.rows), "epoch")
        for row in self.rows:
            _log(progress, row)
        while len(self.rows) < self.units:
            epoch = len(self.rows)
            progress.start_task(1)
            started = time.perf_counter()
            if epoch:
                self._train(epoch)
            trained = time.perf_counter()
            self.rows.append(self._measure(epoch))
            self.train_seconds.append(trained - started)
            self.measure_seconds.append(time.perf_counter() - trained)
            _log(progress, self.rows[-1])
            progress.step()
            progress.end_task()
            state = {"model": self.model.state_dict(), "rows": self.rows}
            seconds = {"train": self.train_seconds, "measure": self.measure_seconds}
            folder.save_checkpoint(state | seconds, self.settings)
        record = self._record()
        folder.finish(record)
        return record

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.rows, self.train_seconds, self.measure_seconds = saved["rows"], saved["train"], saved["measure"]

    def _model(self) -> nn.Module:
        widths = [self.train[0].shape[1], *self.benchmark.hidden, self.classes]
        layers: list[nn.Module] = []
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(self.seed, 0))
            for fan_in, fan_out in pairwise(widths):
                layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[self.strategy.activation]()]
        return nn.Sequential(*layers[:-1]).double()

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.benchmark.family == "categorical":
            return nn.functional.cross_entropy(outputs, labels)
        targets = nn.functional.one_hot(labels, self.classes).to(outputs)
        return 0.5 * (outputs - targets).square().sum(1).mean()

    def _train(self, epoch: int) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=self.strategy.lr)
        size = self.benchmark.training.batch_size
        loader = TensorLoader(self.train, batch_size=size, shuffle=True, seed=derived_seed(self.seed, 1))
        loader.epoch = epoch
        for step, (x, y) in enumerate(loader, start=1):
            optimizer.zero_grad()
            loss = self._loss(self.model(x), y)
            value = float(loss.detach())
            if not math.isfinite(value):
                message = f"the loss is {value:g} at epoch {epoch}, step {step}; lower lr"
                raise StoppedError(message, epoch=epoch, step=step)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise StoppedError(f"the weights are not finite after epoch {epoch}; lower lr", epoch=epoch, step=step)

    def _measure(self, epoch: int) -> dict[str, Any]:
        benchmark = self.benchmark
        with torch.no_grad():
            outputs = self.model(self.test[0])
            if not bool(outputs.isfinite().all() and self.model(self.inputs).isfinite().all()):
                raise StoppedError(f"the outputs are not finite after epoch {epoch}; lower lr", epoch=epoch, step=0)
            loss = float(self._loss(outputs, self.test[1]))
            accuracy = float((outputs.argmax(1) == self.test[1]).double().mean())
        seed = derived_seed(self.seed, 3, epoch)
        layers, found = layer_rows(self.model, self.inputs, benchmark.family, benchmark.measure, seed)
        draws = draws_table(found, benchmark.measure)
        return {"epoch": epoch, "test_loss": loss, "accuracy": accuracy, "layers": layers, "draws": draws}

    def _record(self) -> dict[str, Any]:
        names = list(self.rows[0]["layers"])
        last = self.rows[-1]
        scores = [
            _score(layer, name) for row in self.rows for layer in row["layers"].values() for name in layer["measured"]
        ]
        worst = {
            name: max(layer["predicted"][name] for layer in last["layers"].values()) for name in ("mc", "rademacher")
        }
        started = time.perf_counter()
        ekfac = []
        if self.benchmark.family == "categorical":
            ekfac = ekfac_rows(self.model, self.inputs, self.benchmark.measure, derived_seed(self.seed, 4))
        return self.settings | {
            "history": {
                "epoch": [row["epoch"] for row in self.rows],
                "test_loss": [row["test_loss"] for row in self.rows],
                "accuracy": [row["accuracy"] for row in self.rows],
                "layers": {name: [row["layers"][name] for row in self.rows] for name in names},
            },
            "metrics": {
                "accuracy": last["accuracy"],
                "within_two_errors": sum(abs(score) <= 2 for score in scores) / len(scores),
                "relative_std_mc": worst["mc"],
                "relative_std_rademacher": worst["rademacher"],
            },
            "diagnostics": {
                "inputs": len(self.inputs),
                "outputs": self.classes,
                "parameters": {
                    name: sum(p.numel() for p in self.model.get_submodule(name).parameters()) for name in names
                },
                "draws": last["draws"],
                "draws_before": self.rows[0]["draws"],
                "ekfac": ekfac,
            },
            "timing": {
                "train_seconds": self.train_seconds,
                "evaluate_seconds": self.measure_seconds,
                "total_seconds": sum(self.train_seconds) + sum(self.measure_seconds) + time.perf_counter() - started,
            },
        }


def _log(progress: Progress, row: dict[str, Any]) -> None:
    """Log test loss, accuracy and each layer's predicted deviations."""
    values = {name: row[name] for name in ("test_loss", "accuracy")}
    for name, layer in row["layers"].items():
        values |= {f"predicted_{estimator}/{name}": value for estimator, value in layer["predicted"].items()}
    progress.log(row["epoch"], values)


def _score(layer: dict[str, Any], estimator: str) -> float:
    """Return (measured − predicted)/standard error; 0 where both are rounding beside F."""
    gap = layer["measured"][estimator] - layer["predicted"][estimator]
    if abs(gap) <= 1e-9 * (1 + layer["predicted"][estimator]):
        return 0.0
    return float(gap / layer["standard_error"][estimator])

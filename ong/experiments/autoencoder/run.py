"""One run of an autoencoder benchmark: a net trained epoch by epoch, its losses, and what it makes of test images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ong.experiments.autoencoder.build import load_data, make_trainer
from ong.experiments.autoencoder.schema import AutoencoderBenchmark, AutoencoderStrategy
from ong.experiments.progress import Progress
from ong.experiments.stopped import StoppedError
from ong.experiments.store import RunFolder
from ong.natural.autoencoder import DivergedError, EpochRecord, mean_image_loss, reconstructions, widths_of
from ong.report.images import pack

__all__ = ["AutoencoderRun"]

SHOWN = 10
"""Test images whose reconstructions a record keeps."""

CLOCKS = ("seconds", "cpu_seconds")


class AutoencoderRun:
    """A benchmark, a strategy (an optimizer and a batch size) and a seed, ready to run."""

    def __init__(
        self,
        benchmark: AutoencoderBenchmark,
        strategy: AutoencoderStrategy,
        seed: int,
        data_root: str | Path | None = None,
    ) -> None:
        """Load the data, build net and optimizer.

        Raises:
            UserError: an unknown data set, net, optimizer or option, a net that does not fit the images, or more
                examples a step than there are.
        """
        self.benchmark, self.strategy, self.seed = benchmark, strategy, seed
        self.settings = {"benchmark": benchmark.settings(), "strategy": strategy.settings(), "seed": seed}
        self.data = load_data(benchmark, data_root)
        self.trainer = make_trainer(benchmark, strategy, self.data, seed)
        self.evaluate_seconds: list[float] = []

    @property
    def units(self) -> int:
        """Evaluations: before training and after every epoch."""
        return self.benchmark.training.epochs + 1

    @property
    def place(self) -> dict[str, int]:
        """The epoch in training; 0 is before training."""
        return {"epoch": len(self.trainer.history), "step": 0}

    def run(self, folder: RunFolder, progress: Progress) -> dict[str, Any]:
        """Train what is not done and return the record, which is written to the folder too.

        Raises:
            StoppedError: NaN or infinity; finished epochs are kept in the checkpoint.
            UserError: a checkpoint of other settings.
        """
        folder.restore(self.settings, self._restore)
        progress.start_run(self.units, len(self.trainer.history), "epoch")
        for epoch in self.trainer.history:
            _log(progress, epoch)
        epochs = self.trainer.epochs(self.benchmark.training.epochs)
        while len(self.trainer.history) < self.units:
            progress.start_task(1)
            self._advance(epochs)
            _log(progress, self.trainer.history[-1])
            progress.step()
            progress.end_task()
            state = {"trainer": self.trainer.state_dict(), "evaluate": self.evaluate_seconds}
            folder.save_checkpoint(state, self.settings)
        record = self._record()
        folder.finish(record)
        return record

    def _restore(self, saved: dict[str, Any]) -> None:
        self.trainer.load_state_dict(saved["trainer"])
        self.evaluate_seconds = saved["evaluate"]

    def _advance(self, epochs: Iterator[EpochRecord]) -> None:
        """Train and evaluate one epoch."""
        before = self.trainer.history[-1].seconds if self.trainer.history else 0.0
        started = time.perf_counter()
        try:
            trained = next(epochs).seconds - before
        except DivergedError as error:
            raise StoppedError(str(error), epoch=error.epoch, step=error.step) from error
        self.evaluate_seconds.append(time.perf_counter() - started - trained)

    def _record(self) -> dict[str, Any]:
        rows = [asdict(record) for record in self.trainer.history]
        last = rows[-1]
        clocks = {key: [after[key] - before[key] for before, after in pairwise(rows)] for key in CLOCKS}
        shown = reconstructions(self.trainer.model, self.data, SHOWN)
        return self.settings | {
            "history": {key: [row[key] for row in rows] for key in last if key not in CLOCKS},
            "metrics": {key: last[key] for key in ("train_loss", "test_loss", "train_error", "test_error")},
            "diagnostics": {
                "widths": list(widths_of(self.benchmark.net)),
                "train_images": len(self.data.train),
                "test_images": len(self.data.test),
                "mean_image_loss": mean_image_loss(self.data),
                "reconstructions": pack(np.stack([part.numpy() for part in shown])),
            },
            "timing": {
                "train_seconds": clocks["seconds"],
                "cpu_seconds": clocks["cpu_seconds"],
                "evaluate_seconds": self.evaluate_seconds,
                "total_seconds": last["seconds"] + sum(self.evaluate_seconds),
            },
        }


def _log(progress: Progress, record: EpochRecord) -> None:
    values = asdict(record)
    progress.log(values.pop("epoch"), values)

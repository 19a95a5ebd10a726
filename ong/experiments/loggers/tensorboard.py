"""TensorBoard: event files in ``tensorboard/`` in each run's folder; ``tensorboard --logdir runs`` shows them all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

from ong.experiments.loggers import Logger, RunInfo, installed
from ong.experiments.store import EVENTS

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(Logger):
    """Curves as scalars, the recipes as text and, at the end, as hyper-parameters with the final metrics."""

    def __init__(self) -> None:
        installed("tensorboard", "tensorboard")

    def start(self, run: RunInfo) -> int:
        """Open an event file; TensorBoard hides what older ones of the run have of the last step, if they have it."""
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / EVENTS
        self._parameters = run.parameters
        if run.last >= 0 and folder.is_dir():
            self._writer = SummaryWriter(str(folder), purge_step=run.last)
            return run.last - 1
        shutil.rmtree(folder, ignore_errors=True)  # of a run before this one
        self._writer = SummaryWriter(str(folder))
        text = json.dumps(run.settings, indent=1)
        self._writer.add_text("recipes", "\n".join(f"    {line}" for line in text.splitlines()), 0)
        return -1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a point for each, to the disk at once."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """Close the file."""
        if metrics is not None:
            final = {f"final/{name}": value for name, value in metrics.items()}
            self._writer.add_hparams(self._parameters, final, run_name=".")
        self._writer.close()

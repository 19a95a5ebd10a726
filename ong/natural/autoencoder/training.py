"""Training an autoencoder epoch by epoch, with a state that resumes to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ong.errors import UserError
from ong.natural.autoencoder.data import AutoencoderData
from ong.natural.autoencoder.history import DivergedError, EpochRecord
from ong.natural.online import NaturalGradient, NonFiniteStepError, likelihood_of

__all__ = ["Trainer"]


class Trainer:
    """A run in progress.

    Attributes:
        model: the network, trained in place.
        data: what it learns.
        optimizer: how.
        batch_size: examples a step.
        history: a record for every finished epoch, the state before training first.
    """

    def __init__(
        self, model: nn.Module, data: AutoencoderData, optimizer: Optimizer, *, batch_size: int, seed: int = 0
    ) -> None:
        """Prepare a run; nothing is computed yet.

        Args:
            model: maps ``[n, pixels]`` to ``[n, pixels]``, on the data's device.
            data: see :func:`ong.natural.autoencoder.prepare`.
            optimizer: over the model's parameters; :class:`ong.NaturalGradient` of the data's likelihood, or any
                that steps along ``.grad``.
            batch_size: examples a step; the last step of an epoch takes what is left.
            seed: of the order of the examples.

        Raises:
            UserError: more examples a step than there are, or images outside the likelihood's support.
        """
        if not 1 <= batch_size <= len(data.train):
            raise UserError(f"batch_size must lie between 1 and {len(data.train)} training examples; got {batch_size}")
        self.model = model
        self.data = data
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.history: list[EpochRecord] = []
        self._likelihood = likelihood_of(data.likelihood)
        for rows in (data.train, data.test):
            self._likelihood.check(rows, rows)
        self._order = torch.Generator().manual_seed(seed)
        self._steps = 0
        self._rejected = 0

    def epochs(self, count: int) -> Iterator[EpochRecord]:
        """Train until ``count`` epochs are finished and yield the record of each that was not yet.

        The first record of a new run is the state before training. The caller may save :meth:`state_dict`
        between records.

        Raises:
            UserError: a negative count.
            DivergedError: NaN or infinity, with the history so far.
        """
        if count < 0:
            raise UserError(f"epochs must be a number ≥ 0; got {count}")
        if not self.history:
            self.history.append(self._record(0.0, 0.0))
            yield self.history[-1]
        while len(self.history) <= count:
            wall, cpu = time.perf_counter(), time.process_time()
            self._train_epoch()
            last = self.history[-1]
            seconds = last.seconds + time.perf_counter() - wall
            self._append(self._record(seconds, last.cpu_seconds + time.process_time() - cpu))
            yield self.history[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on; loads with ``weights_only=True``."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self._order.get_state(),
            "steps": self._steps,
            "rejected": self._rejected,
            "history": [asdict(record) for record in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned for a run of the same settings."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"])
        self._steps = int(state["steps"])
        self._rejected = int(state["rejected"])
        self.history = [EpochRecord(**values) for values in state["history"]]

    def _train_epoch(self) -> None:
        rows = self.data.train
        order = torch.randperm(len(rows), generator=self._order).to(rows.device)
        for start in range(0, len(rows), self.batch_size):
            try:
                loss = self._step(rows[order[start : start + self.batch_size]])
            except NonFiniteStepError as error:
                raise self._diverged(str(error)) from error
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss:g}; lower lr")
            self._steps += 1

    def _step(self, batch: Tensor) -> float:
        """Take one step and return the batch's loss before it."""
        if isinstance(self.optimizer, NaturalGradient):
            loss = self.optimizer.step(lambda: (self.model(batch), batch))
            report = self.optimizer.report
            self._rejected += report is not None and not report.accepted
            return loss
        self.optimizer.zero_grad()
        scalar = self._likelihood.loss(self.model(batch), batch)
        scalar.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(scalar.detach())

    def _append(self, record: EpochRecord) -> None:
        if not (math.isfinite(record.train_loss) and math.isfinite(record.test_loss)):
            raise self._diverged("the loss is not finite after the epoch; lower lr")
        self.history.append(record)

    def _record(self, seconds: float, cpu_seconds: float) -> EpochRecord:
        train_loss, train_error = self.data.errors(self.model, self.data.train)
        test_loss, test_error = self.data.errors(self.model, self.data.test)
        natural = isinstance(self.optimizer, NaturalGradient)
        return EpochRecord(
            epoch=len(self.history),
            train_loss=train_loss,
            test_loss=test_loss,
            train_error=train_error,
            test_error=test_error,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            damping=self.optimizer.param_groups[0]["damping"] if natural else None,
            rejected=self._rejected,
        )

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(what, step=self._steps, epoch=len(self.history), history=self.history)

"""MLflow: a run for each run, in the store that ``MLFLOW_TRACKING_URI`` names, or else in ``OUT/mlflow.db``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping

from filelock import FileLock

from ong.experiments.loggers import Logger, RunInfo, installed

__all__ = ["MLflowLogger"]

_LONGEST = 500  # characters of a parameter that every store takes
_TAG = "ong.id"


class MLflowLogger(Logger):
    """Curves as metrics, recipes as parameters. Nothing of MLflow's own state in this process is touched."""

    def __init__(self, *, experiment: str | None = None, tracking_uri: str | None = None) -> None:
        """Choose where runs go.

        Args:
            experiment: by default ``MLFLOW_EXPERIMENT_NAME``, or else the benchmark's name.
            tracking_uri: by default ``MLFLOW_TRACKING_URI``, or else an SQLite file in the folder of all runs.

        Raises:
            UserError: MLflow is not installed.
        """
        installed("mlflow", "mlflow")
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        self._uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")

    def start(self, run: RunInfo) -> int:
        """Begin a run, or go on with that of the same id."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
        out = run.out.absolute()
        with FileLock(out / ".mlflow.lock"):  # several processes must not make tables or experiments at once
            self._client = MlflowClient(self._uri or f"sqlite:///{out / 'mlflow.db'}")
            name = self._experiment or run.benchmark
            known = self._client.get_experiment_by_name(name)
            place = None if self._uri else (out / "mlartifacts").as_uri()
            experiment = known.experiment_id if known else self._client.create_experiment(name, place)
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            histories = [self._client.get_metric_history(self._id, name) for name in found[0].data.metrics]
            return max((point.step for points in histories for point in points), default=-1)
        tags = {_TAG: run.id, "benchmark": run.benchmark, "strategy": run.strategy}
        self._id = self._client.create_run(experiment, tags=tags, run_name=run.label).info.run_id
        parameters = [Param(key, str(value)[:_LONGEST]) for key, value in run.parameters.items()]
        self._client.log_batch(self._id, params=parameters)
        return -1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point for each."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in values.items()])

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """End the run; one that stopped is marked as failed."""
        for name, value in (metrics or {}).items():
            self._client.log_metric(self._id, f"final/{name}", value)
        self._client.set_terminated(self._id, "FINISHED" if metrics is not None else "FAILED")

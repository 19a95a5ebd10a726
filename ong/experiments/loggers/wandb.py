"""Weights & Biases: a run for each run, online, or offline below ``OUT/wandb`` (``WANDB_MODE=offline``)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any, Literal

from ong.errors import UserError
from ong.experiments.loggers import Logger, RunInfo, installed

__all__ = ["WandbLogger"]

_PATIENCE = 120  # seconds at the end for what is still to be sent; the rest stays on the disk for "wandb sync"


class WandbLogger(Logger):
    """Curves as history, recipes as config, final metrics as summary."""

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        tags: list[str] | None = None,
    ) -> None:
        """Choose where runs go; what is left out is taken from wandb's own variables and settings.

        Args:
            project: by default ``WANDB_PROJECT``, or else ``"ong"``.
            entity: user or team, by default the account's.
            mode: by default ``WANDB_MODE``, or else ``"online"``.
            tags: of each run.

        Raises:
            UserError: wandb is not installed, or there is no account to send runs to.
        """
        installed("wandb", "wandb")
        import wandb

        self._options: dict[str, Any] = {"entity": entity, "mode": mode, "tags": tags}
        self._options["project"] = project or os.environ.get("WANDB_PROJECT") or "ong"
        self._online = (mode or os.environ.get("WANDB_MODE") or wandb.setup().settings.mode) in ("online", "shared")
        if self._online and not wandb.login(prompt=False, verify=False):
            raise UserError("logger 'wandb': there is no account here; run 'wandb login', or set WANDB_MODE=offline")

    def start(self, run: RunInfo) -> int:
        """Begin a run, or go on with that of the same id; offline it begins anew, as wandb keeps no more than it sent.

        Of an offline run there is so a single folder, with all steps, to be sent by ``wandb sync``.
        """
        import wandb

        if not self._online:
            for old in run.out.glob(f"wandb/offline-run-*-{run.id}"):
                shutil.rmtree(old)
        self._run = wandb.init(
            **self._options,
            id=run.id,
            name=run.label,
            group=f"{run.benchmark}/{run.strategy}",
            job_type=run.benchmark,
            config=dict(run.settings),
            dir=run.out,
            resume="allow" if self._online else None,
            reinit="create_new",  # what else the process has under way stays as it is
            settings=wandb.Settings(console="off", silent=True, finish_timeout=_PATIENCE),
        )
        return int(self._run.starting_step) - 1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point for each."""
        self._run.log(dict(values), step=step)

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """End the run; one that stopped is marked as failed."""
        self._run.summary.update({f"final/{name}": value for name, value in (metrics or {}).items()})
        self._run.finish(exit_code=0 if metrics is not None else 1)

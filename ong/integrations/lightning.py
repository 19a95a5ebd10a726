"""A method as a Lightning callback: each ``trainer.fit`` is a task."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from ong.curvature import Forward, Likelihood
from ong.errors import UserError
from ong.integrations import check_trains
from ong.methods import Method

try:
    import lightning.pytorch as pl
    from lightning.pytorch.core.optimizer import LightningOptimizer
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
    from lightning.pytorch.trainer.states import TrainerFn
except ModuleNotFoundError as error:
    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise ImportError("ong.integrations.lightning needs Lightning: pip install 'ong[lightning]'") from None

__all__ = ["MethodCallback"]


class MethodCallback(pl.Callback):  # type: ignore[misc]
    """Lets a method rewrite the steps of a ``lightning.pytorch.Trainer``.

    >>> import lightning, torch, ong
    >>> from ong.integrations.lightning import MethodCallback
    >>> class Net(lightning.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.layer(x)
    ...     def training_step(self, batch, number):
    ...         return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> quiet = dict(barebones=True, accelerator="cpu", max_epochs=1)
    >>> net, callback = Net(), MethodCallback(ong.methods.OGD(directions_per_task=4))
    >>> for _ in range(2):
    ...     task = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.arange(8) % 2)
    ...     lightning.Trainer(callbacks=[callback], **quiet).fit(net, torch.utils.data.DataLoader(task, batch_size=4))
    >>> callback.method.tasks
    2

    A task begins when training starts and ends when ``fit`` ends in its own time, early stopping included. After an
    exception or an interrupt it has not ended: ``fit(…, ckpt_path=…)`` goes on with it from a checkpoint, which holds
    the method, and comes to the same weights. Give the next task's trainer the same callback, or another one that took
    over its state.

    In several processes use ``strategy="ddp"``. The optimizer may be any; manual optimization works too.

    Attributes:
        method: the method.
    """

    def __init__(
        self,
        method: Method,
        *,
        logits: Forward | None = None,
        criterion: Any = None,
        likelihood: Likelihood | None = None,
        tasks: int = 1,
    ) -> None:
        """Carry a method.

        Args:
            method: a method of :mod:`ong.methods`.
            logits: from a batch to outputs ``[N, C]``; by default what the LightningModule returns for the inputs.
            criterion: the loss, from which the likelihood is read.
            likelihood: ``"categorical"``, ``"bernoulli"`` or ``"gaussian"``; by default told from criterion or targets.
            tasks: how many tasks are to come, for the estimate of memory.
        """
        self.method = method
        self._options: dict[str, Any] = {
            "logits": logits,
            "criterion": criterion,
            "likelihood": likelihood,
            "tasks": tasks,
        }
        self._unfinished = False  # whether the state taken over is of a task that is still to end
        self._ignores = False  # whether the next state is not of a fit

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a task, or go on with the one a checkpoint was taken in."""
        self._begin(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the task."""
        self.method.end_task()
        self.method.detach()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a task whose checkpoint was its last, so that nothing was left to train."""
        if self._unfinished:
            self._begin(trainer, pl_module)
            self.on_train_end(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Take the hooks off; the task has not ended."""
        self._unfinished = False
        self.method.detach()

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unfinished = False
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
            raise UserError(
                "this strategy (spawn, fork, notebook) trains in processes that end with fit, and with them what the "
                "method keeps; use strategy='ddp', or one device"
            )
        if len(trainer.optimizers) != 1:
            raise UserError(
                f"configure_optimizers of {type(pl_module).__name__} returns {len(trainer.optimizers)} optimizers, and "
                "a method rewrites the steps of one; give it all parameters, as parameter groups where rates differ"
            )
        optimizer: Any = trainer.optimizers[0]
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        check_trains(type(trainer.strategy).__name__, pl_module, optimizer)
        self.method.attach(pl_module, optimizer, **self._options)
        self.method.begin_task(_loader(trainer))

    def state_dict(self) -> dict[str, Any]:
        """Return the method's state, which Lightning puts into its checkpoints."""
        return self.method.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """See that a fit goes on with a method, and that ``validate``, ``test`` and ``predict`` leave it alone.

        Raises:
            UserError: a fit from a checkpoint of a run without the method.
        """
        held = self.state_key in checkpoint["callbacks"]
        fits = trainer.state.fn == TrainerFn.FITTING
        if fits and not held:
            raise UserError(
                f"the checkpoint holds no state of {type(self.method).__name__}: it was trained without this callback; "
                "load the weights alone, in place of ckpt_path"
            )
        self._ignores = held and not fits

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            UserError: the state of another method.
        """
        if self._ignores:
            self._ignores = False
            return
        self.method.load_state_dict(state_dict)
        self._unfinished = bool(state_dict["in_task"])


def _loader(trainer: pl.Trainer) -> Any:
    loaders = trainer.train_dataloader
    if isinstance(loaders, dict | list | tuple) and any(isinstance(part, DataLoader) for part in _values(loaders)):
        raise UserError(
            f"fit was given {len(loaders)} train dataloaders at once, and a task has one; put the data together with "
            "torch.utils.data.ConcatDataset or StackDataset"
        )
    return loaders


def _values(loaders: Any) -> Any:
    return loaders.values() if isinstance(loaders, dict) else loaders

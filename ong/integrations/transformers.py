"""A method as a transformers callback: each ``trainer.train`` is a task."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ong.curvature import Forward, Likelihood
from ong.errors import UserError
from ong.integrations import check_trains
from ong.methods import Method

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError("ong.integrations.transformers needs transformers: pip install 'ong[transformers]'") from None

__all__ = ["FILE", "MethodCallback"]

FILE = "ong_method.pt"
"""The method's state in a checkpoint's folder."""
_COMPARED = 16  # numbers of each parameter that tell whose weights they are


class MethodCallback(TrainerCallback):  # type: ignore[misc]
    """Lets a method rewrite the steps of a ``transformers.Trainer``.

    >>> import tempfile, torch, transformers, ong
    >>> from ong.integrations.transformers import MethodCallback
    >>> config = transformers.BertConfig(
    ...     vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
    ...     max_position_embeddings=4,
    ... )
    >>> model = transformers.BertForSequenceClassification(config)
    >>> folder = tempfile.TemporaryDirectory()
    >>> options = transformers.TrainingArguments(
    ...     folder.name, num_train_epochs=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True
    ... )
    >>> callback = MethodCallback(ong.methods.OGD(directions_per_task=4))
    >>> for _ in range(2):
    ...     task = [{"input_ids": torch.randint(0, 9, (4,)), "labels": i % 2} for i in range(8)]
    ...     trainer = transformers.Trainer(model, options, train_dataset=task, callbacks=[callback])
    ...     trainer.remove_callback(transformers.PrinterCallback)
    ...     _ = trainer.train()
    >>> callback.method.tasks
    2

    A task begins when training starts and ends when ``train`` returns, early stopping and the return to the best
    weights (``load_best_model_at_end``) included. After an exception it has not ended. Each checkpoint gets the
    method's state as ``ong_method.pt``; ``train(resume_from_checkpoint=…)`` takes it up and comes to the same weights.
    It is found in ``output_dir``, or where ``args.resume_from_checkpoint`` points; for a checkpoint elsewhere call
    :meth:`load` first. Give the next task's trainer the same callback.

    Batches are dictionaries with ``"labels"``; the model's ``.logits`` are ``[N, C]`` or ``logits`` makes them so.

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
            logits: from a batch to outputs ``[N, C]``; by default ``model(**inputs).logits``.
            criterion: the loss, from which the likelihood is read.
            likelihood: ``"categorical"``, ``"bernoulli"`` or ``"gaussian"``; by default told from criterion or labels.
            tasks: how many tasks are to come, for the estimate of memory.
        """
        self.method = method
        self._options: dict[str, Any] = {
            "logits": logits,
            "criterion": criterion,
            "likelihood": likelihood,
            "tasks": tasks,
        }
        self._folder: Path | None = None  # of a checkpoint that is to be resumed from

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a task, or go on with the one that the trainer resumes.

        Raises:
            UserError: a resumed checkpoint without the method's state, a hyper-parameter search.
        """
        if state.is_hyper_param_search:
            raise UserError(
                "a hyper-parameter search trains many nets with one callback; make a Trainer with a new MethodCallback "
                "for each trial"
            )
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        while getattr(optimizer, "optimizer", None) is not None:  # what accelerate wrapped
            optimizer = optimizer.optimizer
        check_trains("the Trainer", model, optimizer)
        if state.global_step:
            self.method.load_state_dict(self._resumed(args, state, model))
        self._folder = None
        self.method.attach(model, optimizer, **self._options)
        self.method.begin_task(kwargs["train_dataloader"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the task."""
        self.method.end_task()
        self.method.detach()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the method's state in the checkpoint's folder."""
        if not args.should_save:
            return
        file = _checkpoint(args, state) / FILE
        unfinished = file.with_name(f"{FILE}.{os.getpid()}.tmp")
        with open(unfinished, "wb") as stream:
            torch.save({"weights": _digest(kwargs["model"]), "state": self.method.state_dict()}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, file)

    def load(self, checkpoint: str | os.PathLike[str]) -> None:
        """Name the folder of the checkpoint that the next ``train`` resumes from, where it is not in ``output_dir``.

        Raises:
            UserError: a folder without the method's state.
        """
        self._folder = Path(checkpoint)
        if not (self._folder / FILE).is_file():
            raise UserError(f"no {FILE} in '{self._folder}': this checkpoint was saved without MethodCallback")

    def _resumed(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> dict[str, Any]:
        """Return the method's state of the checkpoint whose weights the trainer has loaded.

        A callback is not told where from, only at which step; so weights are compared.
        """
        given = [self._folder] if self._folder is not None else []
        named = [Path(args.resume_from_checkpoint)] if args.resume_from_checkpoint else []
        folders = given or [_checkpoint(args, state), *named]
        weights = _digest(model)
        for folder in folders:
            if (folder / FILE).is_file():
                saved = torch.load(folder / FILE, map_location="cpu", weights_only=True)
                if saved["weights"] == weights:
                    return saved["state"]  # type: ignore[no-any-return]
        looked = " or ".join(f"'{folder}'" for folder in folders)
        raise UserError(
            f"training resumes at step {state.global_step}, and {looked} has no {FILE} of these weights: resume from a "
            "checkpoint saved with MethodCallback; if it lies elsewhere, call load(FOLDER) of the callback first"
        )


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def _digest(model: nn.Module) -> str:
    """Return a number that tells these weights from others, whatever device they lie on."""
    few = [p.detach().reshape(-1)[:_COMPARED].cpu().double() for p in model.parameters()]
    return hashlib.sha256(torch.cat(few).numpy().tobytes()).hexdigest()

"""The transformers callback: where tasks begin and end, what lies beside checkpoints, what is refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.loops import (
    BATCH,
    METHODS,
    OPTIMIZERS,
    bert,
    same_state,
    tasks,
    transformers_trainer,
    weights,
)
from torch import nn

from ong.errors import UserError
from ong.methods import Method

pytest.importorskip("transformers")

from transformers import TrainerCallback

from ong.integrations.transformers import FILE, MethodCallback

EACH_EPOCH = {"save_strategy": "epoch"}


class Breaks(TrainerCallback):
    """Raises in the second epoch."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.epoch and state.epoch > 1:
            raise RuntimeError("broken")


class Run:
    """A model that trains on tasks."""

    def __init__(self, method: str, optimizer: str = "SGD") -> None:
        self.model = bert()
        self.callback = MethodCallback(METHODS[method]())
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())

    def train(self, folder: Path, number: int, *callbacks: Any, resume: Path | None = None, **options: Any) -> None:
        trainer = transformers_trainer(
            folder, self.model, tasks()[number], self.optimizer, self.callback, *callbacks, **options
        )
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))


def saved(method: str, folder: Path, optimizer: str = "SGD") -> Run:
    """A run of two tasks that saved checkpoints at steps 3 and 6 of the second."""
    run = Run(method, optimizer)
    run.train(folder, 0)
    run.train(folder, 1, **EACH_EPOCH)
    return run


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_resumed_training_ends_with_the_same_weights_and_state_to_the_bit(
    method: str, optimizer: str, tmp_path: Path
) -> None:
    run = saved(method, tmp_path, optimizer)
    for step in (3, 6):  # in the middle of the task, and after its last step
        resumed = Run(method, optimizer)
        resumed.train(tmp_path, 1, resume=tmp_path / f"checkpoint-{step}", **EACH_EPOCH)
        assert torch.equal(weights(resumed.model), weights(run.model))
        assert same_state(resumed.callback.method.state_dict(), run.callback.method.state_dict())
        assert resumed.callback.method.tasks == 2


def test_shuffled_training_resumes_within_an_epoch_to_the_bit(tmp_path: Path) -> None:
    options = {"train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": 2, "seed": 5}
    run, resumed = Run("ONGPrior", "AdamW"), Run("ONGPrior", "AdamW")
    run.train(tmp_path, 0)
    run.train(tmp_path, 1, **options)
    resumed.train(tmp_path, 1, resume=tmp_path / "checkpoint-4", **options)
    assert torch.equal(weights(resumed.model), weights(run.model))


def test_a_checkpoint_holds_one_file_of_the_method_and_no_unfinished_one(tmp_path: Path) -> None:
    saved("OGD", tmp_path)
    for step in (3, 6):
        assert [path.name for path in (tmp_path / f"checkpoint-{step}").glob("ong*")] == [FILE]


def test_a_moved_checkpoint_is_found_where_load_says(tmp_path: Path) -> None:
    run = saved("OGD", tmp_path / "first")
    moved = tmp_path / "elsewhere" / "kept"
    shutil.copytree(tmp_path / "first" / "checkpoint-3", moved)
    resumed = Run("OGD")
    with pytest.raises(UserError, match=r"call load\(FOLDER\)"):
        resumed.train(tmp_path / "second", 1, resume=moved)
    resumed = Run("OGD")
    resumed.callback.load(moved)
    resumed.train(tmp_path / "second", 1, resume=moved)
    assert torch.equal(weights(resumed.model), weights(run.model))


def test_a_checkpoint_given_in_the_arguments_is_found(tmp_path: Path) -> None:
    run = saved("OGD", tmp_path / "first")
    resumed, folder = Run("OGD"), tmp_path / "first" / "checkpoint-3"
    resumed.train(tmp_path / "second", 1, resume=folder, resume_from_checkpoint=str(folder))
    assert torch.equal(weights(resumed.model), weights(run.model))


def test_a_state_that_belongs_to_other_weights_is_not_taken(tmp_path: Path) -> None:
    for folder, method in (("first", "OGD"), ("second", "EWC")):
        saved(method, tmp_path / folder)
    with pytest.raises(UserError, match=f"has no {FILE} of these weights"):
        Run("OGD").train(tmp_path / "second", 1, resume=tmp_path / "first" / "checkpoint-3")


def test_a_checkpoint_without_the_method_is_refused(tmp_path: Path) -> None:
    saved("OGD", tmp_path)
    (tmp_path / "checkpoint-3" / FILE).unlink()
    with pytest.raises(UserError, match=f"resumes at step 3, and .*checkpoint-3' has no {FILE}"):
        Run("OGD").train(tmp_path, 1, resume=tmp_path / "checkpoint-3")
    with pytest.raises(UserError, match=f"no {FILE} in .*checkpoint-3"):
        Run("OGD").callback.load(tmp_path / "checkpoint-3")


def test_training_that_raised_has_ended_no_task_and_can_be_resumed(tmp_path: Path) -> None:
    run, broken = saved("OGD", tmp_path / "whole"), Run("OGD")
    broken.train(tmp_path, 0)
    with pytest.raises(RuntimeError, match="broken"):
        broken.train(tmp_path, 1, Breaks(), **EACH_EPOCH)
    assert broken.callback.method.tasks == 1
    broken.train(tmp_path, 1, resume=tmp_path / "checkpoint-3", **EACH_EPOCH)
    assert broken.callback.method.tasks == 2
    assert torch.equal(weights(broken.model), weights(run.model))


def test_steps_after_training_are_the_optimizers_own(tmp_path: Path) -> None:
    run = saved("OGD", tmp_path)
    before = weights(run.model)
    x, y = tasks()[1]
    run.model.zero_grad()
    nn.functional.cross_entropy(run.model(input_ids=x).logits, y).backward()
    gradient = torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])
    run.optimizer.step()
    torch.testing.assert_close(weights(run.model), before - 0.3 * gradient, rtol=0, atol=1e-15)


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    ends = []
    halves = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
    for options, rate in (({}, 0.3), (halves, 0.15)):  # this Trainer adds up the accumulated means
        run = Run("OGD")
        run.optimizer.param_groups[0]["lr"] = rate
        for number in range(2):
            run.train(tmp_path, number, **options)
        ends.append(weights(run.model))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-12)  # sums of halves: rounding


def test_an_optimizer_that_the_trainer_makes_is_rewritten(tmp_path: Path) -> None:
    ends = []
    for method in (METHODS["OGD"](), Method()):
        model, callback = bert(), MethodCallback(method)
        for task in tasks():
            transformers_trainer(tmp_path, model, task, None, callback, learning_rate=0.02).train()
        ends.append(weights(model))
    assert float((ends[0] - ends[1]).abs().max()) > 1e-2


def test_a_search_with_one_callback_is_refused(tmp_path: Path) -> None:
    trainer = transformers_trainer(tmp_path, bert(), tasks()[0], None, MethodCallback(METHODS["OGD"]()))
    trainer.state.is_hyper_param_search = True
    with pytest.raises(UserError, match="a new MethodCallback for each trial"):
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)


def test_without_transformers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ong.integrations.transformers")
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ImportError, match=r"^ong\.integrations\.transformers needs transformers: pip install 'ong\[transformers\]'$"
    ):
        import ong.integrations.transformers  # noqa: F401


def test_what_tells_the_likelihood_reaches_the_method(tmp_path: Path) -> None:
    class Seen(Method):
        def _end(self, examples: Any) -> None:
            self.seen = (
                self.likelihood(examples),
                self.expected_tasks,
                self.forward(self.network.probe(examples)).shape[1],
            )

    method, model = Seen(), bert()
    logits = lambda batch: model(input_ids=batch["input_ids"]).logits.repeat(1, 2)  # noqa: E731
    callback = MethodCallback(method, likelihood="gaussian", logits=logits, tasks=7)
    transformers_trainer(tmp_path, model, tasks()[0], OPTIMIZERS["SGD"](model.parameters()), callback).train()
    assert method.seen == ("gaussian", 7, 6)

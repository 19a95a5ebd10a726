"""The Lightning callback: where tasks begin and end, what checkpoints carry, what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.loops import (
    BATCH,
    METHODS,
    OPTIMIZERS,
    Logits,
    bert,
    lightning_net,
    lightning_trainer,
    loader,
    plain,
    same_state,
    tasks,
    weights,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ong.errors import UserError
from ong.methods import OGD, Method

lightning = pytest.importorskip("lightning")
pytest.importorskip("transformers")  # whose BERT is trained

from lightning.pytorch.callbacks import Callback, ModelCheckpoint  # noqa: E402

from ong.integrations.lightning import MethodCallback  # noqa: E402


class Stateful(DataLoader[Any]):
    """A loader that knows where it is, as Lightning needs to resume within an epoch."""

    next = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = list(super().__iter__())
        for number in range(self.next, len(batches)):
            self.next = (number + 1) % len(batches)
            yield batches[number]

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


class Breaks(Callback):
    """Raises in the second task's second epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("broken")


def first_task(net: Any, callback: MethodCallback) -> None:
    lightning_trainer(callback).fit(net, loader(tasks()[0]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_resumed_fit_ends_with_the_same_weights_and_state_to_the_bit(
    method: str, optimizer: str, tmp_path: Path
) -> None:
    net, callback = lightning_net(OPTIMIZERS[optimizer]), MethodCallback(METHODS[method]())
    first_task(net, callback)
    checkpoints = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    lightning_trainer(callback, checkpoints, enable_checkpointing=True).fit(net, loader(tasks()[1]))
    assert {path.name for path in tmp_path.iterdir()} == {"step=3.ckpt", "step=6.ckpt"}
    for name in ("step=3.ckpt", "step=6.ckpt"):  # in the middle of the task, and after its last step
        resumed, fresh = lightning_net(OPTIMIZERS[optimizer]), MethodCallback(METHODS[method]())
        lightning_trainer(fresh).fit(resumed, loader(tasks()[1]), ckpt_path=tmp_path / name)
        assert torch.equal(weights(resumed), weights(net))
        assert same_state(fresh.state_dict(), callback.state_dict())
        assert fresh.method.tasks == 2


def test_fit_resumes_within_an_epoch_from_a_loader_that_can(tmp_path: Path) -> None:
    make, task = OPTIMIZERS["AdamW"], TensorDataset(*tasks()[1])
    net, callback = lightning_net(make), MethodCallback(METHODS["OGD"]())
    first_task(net, callback)
    checkpoints = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=2)
    lightning_trainer(callback, checkpoints, enable_checkpointing=True).fit(net, Stateful(task, batch_size=BATCH))
    resumed, fresh = lightning_net(make), MethodCallback(METHODS["OGD"]())
    lightning_trainer(fresh).fit(resumed, Stateful(task, batch_size=BATCH), ckpt_path=tmp_path / "step=4.ckpt")
    assert torch.equal(weights(resumed), weights(net))
    assert same_state(fresh.state_dict(), callback.state_dict())


def test_next_task_goes_on_from_a_state_that_was_saved(tmp_path: Path) -> None:
    net, callback = lightning_net(OPTIMIZERS["SGD"]), MethodCallback(METHODS["ONGPrior"]())
    first_task(net, callback)
    torch.save({"net": net.state_dict(), "callback": callback.state_dict()}, tmp_path / "state.pt")
    lightning_trainer(callback).fit(net, loader(tasks()[1]))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    later, fresh = lightning_net(OPTIMIZERS["SGD"]), MethodCallback(METHODS["ONGPrior"]())
    later.load_state_dict(state["net"])
    fresh.load_state_dict(state["callback"])
    lightning_trainer(fresh).fit(later, loader(tasks()[1]))
    assert torch.equal(weights(later), weights(net))
    assert fresh.method.tasks == 2


def test_a_fit_that_raised_has_ended_no_task_and_leaves_steps_alone() -> None:
    net, callback = lightning_net(OPTIMIZERS["SGD"]), MethodCallback(METHODS["OGD"]())
    first_task(net, callback)
    with pytest.raises(RuntimeError, match="broken"):
        lightning_trainer(callback, Breaks()).fit(net, loader(tasks()[1]))
    assert callback.method.tasks == 1
    before = weights(net)
    nn.functional.cross_entropy(net(tasks()[1][0]), tasks()[1][1]).backward()
    gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    net.optimizer.step()
    torch.testing.assert_close(weights(net), before - 0.3 * gradient, rtol=0, atol=1e-15)  # the step of SGD itself


def test_testing_a_checkpoint_leaves_the_method_as_it_is(tmp_path: Path) -> None:
    net, callback = lightning_net(OPTIMIZERS["SGD"]), MethodCallback(METHODS["OGD"]())
    net.test_step = lambda batch: None
    trainer = lightning_trainer(callback, ModelCheckpoint(tmp_path), enable_checkpointing=True)
    trainer.fit(net, loader(tasks()[0]))
    state = callback.state_dict()
    (best,) = tmp_path.iterdir()
    trainer.test(net, loader(tasks()[0]), ckpt_path=best, verbose=False)
    assert callback.method.tasks == 1
    assert same_state(callback.state_dict(), state)


def test_accumulated_batches_are_one_step() -> None:
    ends = []
    for batch, accumulated in ((BATCH, 1), (BATCH // 2, 2)):
        net, callback = lightning_net(OPTIMIZERS["SGD"]), MethodCallback(METHODS["OGD"]())
        for task in tasks():
            lightning_trainer(callback, accumulate_grad_batches=accumulated).fit(net, loader(task, batch))
        ends.append(weights(net))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-12)  # means of halves: rounding


def test_manual_optimization_is_rewritten_too() -> None:
    net, callback = lightning_net(OPTIMIZERS["SGD"]), MethodCallback(METHODS["OGD"]())
    net.automatic_optimization = False

    def step(batch: Sequence[Tensor]) -> None:
        optimizer = net.optimizers()
        optimizer.zero_grad()
        net.manual_backward(nn.functional.cross_entropy(net(batch[0]), batch[1]))
        optimizer.step()

    net.training_step = step
    for task in tasks():
        lightning_trainer(callback).fit(net, loader(task))
    assert torch.equal(weights(net), plain(METHODS["OGD"](), OPTIMIZERS["SGD"]))


def test_more_than_one_optimizer_is_refused() -> None:
    net = lightning_net(OPTIMIZERS["SGD"])
    net.automatic_optimization = False
    net.configure_optimizers = lambda: [net.optimizer, OPTIMIZERS["AdamW"](net.parameters())]
    with pytest.raises(UserError, match="returns 2 optimizers"):
        lightning_trainer(MethodCallback(METHODS["OGD"]())).fit(net, loader(tasks()[0]))


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    net = lightning_net(OPTIMIZERS["SGD"])
    net.optimizer = torch.optim.SGD(Logits(bert()).parameters(), lr=0.1)
    with pytest.raises(UserError, match="SGD that holds none of the model's parameters"):
        lightning_trainer(MethodCallback(METHODS["OGD"]())).fit(net, loader(tasks()[0]))


def test_several_loaders_at_once_are_refused() -> None:
    net = lightning_net(OPTIMIZERS["SGD"])
    with pytest.raises(UserError, match="2 train dataloaders at once"):
        lightning_trainer(MethodCallback(METHODS["OGD"]())).fit(net, {"a": loader(tasks()[0]), "b": loader(tasks()[1])})


def test_processes_that_end_with_fit_are_refused() -> None:
    net = lightning_net(OPTIMIZERS["SGD"])
    with pytest.raises(Exception, match="use strategy='ddp'"):
        lightning_trainer(MethodCallback(METHODS["OGD"]()), strategy="ddp_fork").fit(net, loader(tasks()[0]))


@pytest.mark.parametrize(
    ("saved", "message"),
    [([], "holds no state of OGD"), ([MethodCallback(METHODS["EWC"]())], "the state of 'EWC', not of OGD")],
    ids=["no method", "another method"],
)
def test_checkpoints_of_other_runs_are_refused(saved: list[MethodCallback], message: str, tmp_path: Path) -> None:
    net = lightning_net(OPTIMIZERS["SGD"])
    lightning_trainer(*saved, ModelCheckpoint(tmp_path), enable_checkpointing=True).fit(net, loader(tasks()[0]))
    (checkpoint,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=message):
        lightning_trainer(MethodCallback(METHODS["OGD"]())).fit(net, loader(tasks()[0]), ckpt_path=checkpoint)


def test_a_batch_norm_that_was_held_moves_again_after_fit() -> None:
    class Net(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()

        def forward(self, x: Tensor) -> Any:
            return self.layers(x)

        def training_step(self, batch: Sequence[Tensor], number: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    net, callback = Net(), MethodCallback(OGD(directions_per_task=3))
    task = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 2
    means = []
    for _ in range(2):
        lightning_trainer(callback).fit(net, loader(task))
        means.append(net.layers[1].running_mean.clone())
    assert torch.equal(means[0], means[1])
    net.train()
    net(task[0] + 1)
    assert not torch.equal(net.layers[1].running_mean, means[1])


def test_without_lightning_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ong.integrations.lightning")
    for name in [name for name in sys.modules if name.split(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(
        ImportError, match=r"^ong\.integrations\.lightning needs Lightning: pip install 'ong\[lightning\]'$"
    ):
        import ong.integrations.lightning  # noqa: F401


def test_what_tells_the_likelihood_reaches_the_method() -> None:
    class Seen(Method):
        def _end(self, examples: Any) -> None:
            self.seen = (
                self.likelihood(examples),
                self.expected_tasks,
                self.forward(self.network.probe(examples)).shape[1],
            )

    method = Seen()
    net = lightning_net(OPTIMIZERS["SGD"])
    logits = lambda batch: net(batch[0]).repeat(1, 2)  # noqa: E731
    callback = MethodCallback(method, likelihood="gaussian", logits=logits, tasks=7)
    lightning_trainer(callback, epochs=1).fit(net, loader(tasks()[0]))
    assert method.seen == ("gaussian", 7, 6)

from __future__ import annotations

import importlib.util
import io
import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

from ong.errors import UnknownNameError, UserError
from ong.natural.autoencoder import (
    STRATEGIES,
    AutoencoderData,
    DivergedError,
    EpochRecord,
    Strategy,
    Trainer,
    make_net,
    reached,
    strategy_of,
    train,
)

INSTALLED = [name for name in STRATEGIES if name != "soap" or importlib.util.find_spec("pytorch_optimizer") is not None]


def net(seed: int = 0) -> nn.Sequential:
    return make_net([16, 8, 4, 8, 16], generator=torch.Generator().manual_seed(seed))


def small(name: str) -> Strategy:
    """A strategy with batches that suit 240 examples, none of them a divisor of 240."""
    return STRATEGIES[name].changed(batch_size=min(STRATEGIES[name].batch_size, 50))


def timeless(record: EpochRecord) -> dict[str, object]:
    return {key: value for key, value in asdict(record).items() if "seconds" not in key}


@pytest.mark.parametrize("name", INSTALLED)
def test_every_strategy_lowers_training_and_test_error(name: str, gaussian: AutoencoderData) -> None:
    history = list(train(net(), gaussian, small(name), 8))
    assert [record.epoch for record in history] == list(range(9))
    assert history[-1].train_loss < 0.9 * history[0].train_loss
    assert history[-1].test_error < 0.9 * history[0].test_error
    assert (history[-1].damping is not None) == name.startswith("ngd")
    assert history[-1].seconds > history[1].seconds > 0 == history[0].seconds


@pytest.mark.parametrize("name", ["adam", "ngd", "ngd-ekfac", "ngd-fast"])
def test_bernoulli_outputs_learn_too(name: str, bernoulli: AutoencoderData) -> None:
    first, *_, last = train(net(), bernoulli, small(name), 3)
    assert last.train_loss < first.train_loss
    assert last.train_error < first.train_error


@pytest.mark.parametrize("name", INSTALLED)
def test_a_run_resumed_from_a_file_is_the_uninterrupted_one_to_the_bit(name: str, gaussian: AutoencoderData) -> None:
    whole = Trainer(net(), gaussian, small(name), seed=3)
    expected = [timeless(record) for record in whole.epochs(4)]
    broken = Trainer(net(), gaussian, small(name), seed=3)
    list(broken.epochs(2))
    file = io.BytesIO()
    torch.save(broken.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    model = net(seed=8)
    resumed = list(train(model, gaussian, small(name), 4, seed=3, state=state))
    assert [timeless(record) for record in resumed] == expected[3:]
    assert resumed[0].seconds > state["history"][-1]["seconds"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.model.parameters(), strict=True))


def test_order_and_noise_come_from_the_seed(gaussian: AutoencoderData) -> None:
    runs = [[timeless(r) for r in train(net(), gaussian, small("ngd-fast"), 1, seed=seed)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_divergence_is_an_error_that_keeps_the_finished_epochs(gaussian: AutoencoderData) -> None:
    trainer = Trainer(net(), gaussian, small("sgd").changed(lr=20.0))
    with pytest.raises(DivergedError, match=r"sgd diverged.*finished epochs are kept") as caught:
        list(trainer.epochs(50))
    assert caught.value.history == trainer.history
    assert caught.value.epoch == len(trainer.history)


def test_a_nan_in_the_data_is_an_error_with_step_and_remedy(gaussian: AutoencoderData) -> None:
    gaussian.train[7, 3] = math.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        list(train(net(), gaussian, small("ngd"), 1))


def test_a_nan_in_the_weights_names_the_step(gaussian: AutoencoderData) -> None:
    model = net()
    trainer = Trainer(model, gaussian, small("ngd"))
    records = trainer.epochs(3)
    next(records)
    next(records)
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan
    with pytest.raises(DivergedError, match=r"the loss is nan at step 5.*\(step 5, epoch 2\); 1 finished") as caught:
        next(records)
    assert [record.epoch for record in caught.value.history] == [0, 1]


def test_options_are_checked(gaussian: AutoencoderData) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'momentum'"):
        STRATEGIES["ngd"].changed(momentun=0.5)
    with pytest.raises(UnknownNameError, match="did you mean 'ngd-fast'"):
        strategy_of("ngd-fst")
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        STRATEGIES["ngd"].changed(batch_size=0)
    with pytest.raises(UserError, match="between 1 and 240 training examples; got 1000"):
        Trainer(net(), gaussian, "ngd")
    with pytest.raises(UserError, match="epochs must be a number ≥ 0"):
        list(train(net(), gaussian, small("ngd"), -1))


def test_soap_without_its_package_says_how_to_get_it(gaussian: AutoencoderData, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    with pytest.raises(UserError, match="pip install pytorch-optimizer"):
        Trainer(net(), gaussian, small("soap"))


def test_reached_interpolates_between_epochs() -> None:
    losses = [8.0, 4.0, 2.0]
    history = [EpochRecord(i, loss, loss, loss, loss, 10.0 * i, 5.0 * i) for i, loss in enumerate(losses)]
    assert reached(history, 3.0) == (1.5, 7.5)
    assert reached(history, 9.0) == (0.0, 0.0)
    assert reached(history, 1.0) is None

from __future__ import annotations

import importlib.util
import io
import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

from ong.errors import UserError
from ong.experiments.autoencoder.build import make_trainer
from ong.experiments.autoencoder.schema import AutoencoderBenchmark, AutoencoderStrategy
from ong.experiments.recipes import list_recipes, load_strategy, override
from ong.natural.autoencoder import AutoencoderData, DivergedError, EpochRecord, Trainer, make_net

INSTALLED = [
    name
    for name in list_recipes("strategies/autoencoder")
    if name != "soap" or importlib.util.find_spec("pytorch_optimizer") is not None
]


def net(seed: int = 0) -> nn.Sequential:
    return make_net([16, 8, 4, 8, 16], generator=torch.Generator().manual_seed(seed))


def trainer(name: str, data: AutoencoderData, seed: int = 0, **changes: object) -> Trainer:
    """A recipe's trainer with batches that suit 240 examples, none of them a divisor of 240."""
    recipe = load_strategy(name, "autoencoder")
    assert isinstance(recipe, AutoencoderStrategy)
    recipe = override(recipe, {"batch_size": min(recipe.batch_size, 50)} | changes)
    benchmark = AutoencoderBenchmark(
        name="b", summary="s", kind="autoencoder", dataset="none", net=[16, 8, 4, 8, 16], likelihood=data.likelihood,
        training={"epochs": 1},
    )  # fmt: skip
    return make_trainer(benchmark, recipe, data, seed)


def timeless(record: EpochRecord) -> dict[str, object]:
    return {key: value for key, value in asdict(record).items() if "seconds" not in key}


@pytest.mark.parametrize("name", INSTALLED)
def test_every_strategy_lowers_training_and_test_error(name: str, gaussian: AutoencoderData) -> None:
    history = list(trainer(name, gaussian).epochs(8))
    assert [record.epoch for record in history] == list(range(9))
    assert history[-1].train_loss < 0.9 * history[0].train_loss
    assert history[-1].test_error < 0.9 * history[0].test_error
    assert (history[-1].damping is not None) == name.startswith("ngd")
    assert history[-1].seconds > history[1].seconds > 0 == history[0].seconds


@pytest.mark.parametrize("name", ["adam", "ngd", "ngd-ekfac", "ngd-fast"])
def test_bernoulli_outputs_learn_too(name: str, bernoulli: AutoencoderData) -> None:
    first, *_, last = trainer(name, bernoulli).epochs(3)
    assert last.train_loss < first.train_loss
    assert last.train_error < first.train_error


@pytest.mark.parametrize("name", INSTALLED)
def test_a_run_resumed_from_a_file_is_the_uninterrupted_one_to_the_bit(name: str, gaussian: AutoencoderData) -> None:
    whole = trainer(name, gaussian, seed=3)
    expected = [timeless(record) for record in whole.epochs(4)]
    broken = trainer(name, gaussian, seed=3)
    list(broken.epochs(2))
    file = io.BytesIO()
    torch.save(broken.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = trainer(name, gaussian, seed=8)
    resumed.load_state_dict(state)
    records = list(resumed.epochs(4))
    assert [timeless(record) for record in records] == expected[3:]
    assert records[0].seconds > state["history"][-1]["seconds"]
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))


def test_order_and_noise_come_from_the_seed(gaussian: AutoencoderData) -> None:
    runs = [[timeless(r) for r in trainer("ngd-fast", gaussian, seed).epochs(1)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_divergence_is_an_error_that_keeps_the_finished_epochs(gaussian: AutoencoderData) -> None:
    wild = trainer("sgd", gaussian, **{"optimizer.lr": 20.0})
    with pytest.raises(DivergedError, match=r"the loss is (inf|nan); lower lr.*finished epochs are kept") as caught:
        list(wild.epochs(50))
    assert caught.value.history == wild.history
    assert caught.value.epoch == len(wild.history)


@pytest.mark.parametrize("name", ["sgd", "ngd"])
def test_a_nan_in_the_images_is_refused_before_training(name: str, gaussian: AutoencoderData) -> None:
    gaussian.train[7, 3] = math.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        trainer(name, gaussian)


@pytest.mark.parametrize("name", ["sgd", "ngd"])
def test_pixels_outside_the_likelihood_s_support_are_refused_before_training(
    name: str, bernoulli: AutoencoderData
) -> None:
    bernoulli.test[0, 0] = 1.5
    with pytest.raises(UserError, match=r"must lie in \[0, 1\]; got values from 0 to 1.5"):
        trainer(name, bernoulli)


def test_a_nan_in_the_weights_names_the_step(gaussian: AutoencoderData) -> None:
    broken = trainer("ngd", gaussian)
    records = broken.epochs(3)
    next(records)
    next(records)
    with torch.no_grad():
        next(broken.model.parameters())[0, 0] = math.nan
    with pytest.raises(DivergedError, match=r"the loss is nan at step 5.*\(step 5, epoch 2\); 1 finished") as caught:
        next(records)
    assert [record.epoch for record in caught.value.history] == [0, 1]


def test_batches_and_epochs_out_of_range_are_refused(gaussian: AutoencoderData) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for size in (0, 241):
        with pytest.raises(UserError, match=f"between 1 and 240 training examples; got {size}"):
            Trainer(model, gaussian, optimizer, batch_size=size)
    with pytest.raises(UserError, match="epochs must be a number ≥ 0"):
        list(Trainer(model, gaussian, optimizer, batch_size=240).epochs(-1))

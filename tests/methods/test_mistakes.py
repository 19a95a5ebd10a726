"""What people do wrong: each is told, as the method would otherwise train plainly under its name."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from nets import mlp
from torch import Tensor, nn

import ong
from ong.errors import UserError
from ong.methods import EWC, GPM, NCL, OGD, SI, ONGPrior


def task(seed: int = 0, classes: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 6, generator=generator, dtype=torch.float64)
    return [x, torch.randint(0, classes, (24,), generator=generator)]


def step(model: nn.Module, optimizer: Any, data: list[Tensor]) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(data[0]), data[1]).backward()
    optimizer.step()


def sgd(model: nn.Module, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, **options)


def test_a_new_optimizer_that_was_not_attached_is_told_at_the_end_of_its_task() -> None:
    model, method = mlp(6, 8, 3), OGD(directions_per_task=8)
    with method.attach(model, sgd(model)):
        method.begin_task(task())
        step(model, sgd(model), task())
        with pytest.warns(UserWarning, match="took no step; attach the optimizer that trains"):
            method.end_task()


@pytest.mark.parametrize("alone", [0, 2])  # the last one's step leaves the sum of its weights as it is
def test_another_optimizer_beside_the_attached_one_is_told(alone: int) -> None:
    model, method = mlp(6, 8, 3), OGD(directions_per_task=8)
    part = torch.optim.SGD(model[2 - alone].parameters(), lr=0.05)
    other = torch.optim.SGD(model[alone].parameters(), lr=0.05)
    with method.attach(model, part):
        for data in (task(), task(1)):
            method.begin_task(data)
            step(model, part, data)
            other.step()
            if method.tasks:
                with pytest.warns(UserWarning, match=rf"other steps than those that are rewritten \('{alone}\.weight'"):
                    method.end_task()
            else:
                method.end_task()


def test_weights_that_are_loaded_as_they_are_move_nothing_and_are_not_told(recwarn: pytest.WarningsRecorder) -> None:
    model, method = mlp(6, 8, 3), OGD(directions_per_task=8)
    part = torch.optim.SGD(model[2].parameters(), lr=0.05)
    with method.attach(model, part):
        for data in (task(), task(1)):
            method.begin_task(data)
            step(model, part, data)
            model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
            method.end_task()
    assert not [warning for warning in recwarn if "other steps than" in str(warning.message)]


def test_attaching_a_second_optimizer_in_a_task_is_refused() -> None:
    model, method = mlp(6, 8, 3), OGD(directions_per_task=8)
    method.attach(model, sgd(model))
    method.begin_task(task())
    with pytest.raises(UserError, match="in training with another optimizer"):
        method.attach(model, sgd(model))


def test_a_model_without_its_encoder_is_refused() -> None:
    encoder, head = mlp(6, 5), mlp(5, 3)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.05)
    method = OGD().attach(head, optimizer, logits=lambda batch: head(encoder(batch[0])))
    with pytest.raises(UserError, match="depend on parameters of the optimizer outside of Sequential"):
        method.begin_task(task())


def test_what_is_given_in_another_order_or_form_is_told() -> None:
    model = mlp(6, 3)
    with pytest.raises(UserError, match=r"an optimizer, in this order; got SGD, Sequential"):
        OGD().attach(sgd(model), model)  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"one tensor of shape \[8, 6\]; with targets it is a list: \[inputs, targets\]"
    ):
        OGD().attach(model, sgd(model)).begin_task(torch.randn(8, 6))
    with pytest.raises(AttributeError) as error:
        ong.methods.ONGprior  # noqa: B018
    assert error.value.name == "ONGprior"  # by which Python asks whether another name was meant
    assert error.value.obj is ong.methods


def test_a_plugin_in_a_loop_of_ones_own_is_told() -> None:
    model = mlp(6, 3)
    with pytest.raises(UserError, match=r"in a loop of your own use ong\.methods\.OGD"):
        ong.OGD().attach(model, sgd(model))


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(UserError, match="the optimizer holds none of the parameters of the model"):
        OGD().attach(mlp(6, 3), sgd(mlp(6, 3))).begin_task(task())


@pytest.mark.parametrize("cut", [lambda h: h.detach(), lambda h: h.argmax(1).double()], ids=["detached", "argmax"])
def test_logits_that_do_not_depend_on_the_weights_are_refused(cut: Any) -> None:
    model = mlp(6, 3)
    method = NCL().attach(model, sgd(model), logits=lambda batch: cut(model(batch[0])))
    with pytest.raises(UserError, match="do not depend on the parameters that are trained; check logits="):
        method.begin_task(task())


def test_a_task_that_is_not_ended_is_told() -> None:
    model, method = mlp(6, 8, 3), OGD(directions_per_task=8)
    optimizer = sgd(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with method.attach(model, optimizer):
            for seed in (0, 1):
                method.begin_task(task(seed))
                step(model, optimizer, task(seed))
    again, left = (str(warning.message) for warning in told)
    assert "begin_task was called in the middle of a task" in again
    assert "left in the middle of a task" in left


def test_a_task_cannot_end_twice() -> None:
    model, method = mlp(6, 8, 3), OGD(directions_per_task=8)
    optimizer = sgd(model)
    with method.attach(model, optimizer):
        method.begin_task(task())
        step(model, optimizer, task())
        method.end_task(task())
        with pytest.raises(UserError, match="no task has begun"):
            method.end_task(task())
    assert method.tasks == 1


def test_a_method_among_avalanches_plugins_names_the_plugin() -> None:
    with pytest.raises(UserError, match=r"in Avalanche use ong\.ONGPrior"):
        ONGPrior().before_training(None)


@pytest.mark.parametrize("make", [lambda: EWC(fisher="empirical"), lambda: OGD(directions="loss")], ids=["ewc", "ogd"])
def test_labels_that_no_output_has_are_refused(make: Any) -> None:
    model, method = mlp(6, 3), make()
    data = task(classes=7)
    method.attach(model, sgd(model))

    def learn() -> None:
        method.begin_task(data)
        step(model, sgd(model), [data[0], data[1] % 3])
        method.end_task()

    with pytest.raises(UserError, match="a label is 6, and the model has 3 outputs"):
        learn()


@pytest.mark.parametrize("make", [EWC, SI, NCL, lambda: ONGPrior(pull=0.3)], ids=["ewc", "si", "ncl", "ong-prior"])
@pytest.mark.parametrize("kind", ["maximize", "line search"])
def test_optimizers_that_a_penalty_leads_astray_are_refused(make: Any, kind: str) -> None:
    model = mlp(6, 3)
    search = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    optimizer = sgd(model, maximize=True) if kind == "maximize" else search
    with pytest.raises(UserError, match="penalty"):
        make().attach(model, optimizer).begin_task(task())


def test_a_state_of_the_optimizer_that_is_loaded_in_a_task_brings_no_old_momentum_in() -> None:
    model, method = mlp(6, 8, 3), OGD(directions_per_task=24)
    optimizer = sgd(model, momentum=0.9)
    with method.attach(model, optimizer):
        method.begin_task(task())
        step(model, optimizer, task())
        saved = copy.deepcopy(optimizer.state_dict())
        method.end_task()
        method.begin_task(task(1))
        optimizer.load_state_dict(saved)
        before = {name: block.values() for name, block in method.blocks.items()}
        step(model, optimizer, task(1))
        moved = {name: before[name] - block.values() for name, block in method.blocks.items()}
        method.end_task()
    assert float(method.memory.select(torch.arange(24)).dot(moved).abs().max()) < 1e-12  # float64 rounding


def test_a_model_in_another_dtype_than_what_is_stored_is_refused() -> None:
    model, method = mlp(6, 8, 3), OGD(directions_per_task=8)
    optimizer = sgd(model)
    method.attach(model, optimizer)
    method.begin_task(task())
    step(model, optimizer, task())
    method.end_task()
    model.float()
    with pytest.raises(UserError, match=r"stored in torch\.float64 and the model is in torch\.float32"):
        method.begin_task([part.float() if part.is_floating_point() else part for part in task(1)])


def test_a_layers_threshold_stays_its_own_when_another_layer_is_frozen() -> None:
    model = mlp(6, 8, 3)
    ranks = []
    for frozen in (False, True):
        net, method = copy.deepcopy(model), GPM(threshold=[0.2, 0.95])
        net[0].requires_grad_(not frozen)
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.0)
        with method.attach(net, optimizer):
            method.begin_task(task())
            step(net, optimizer, task())
            method.end_task()
        ranks.append(method.bases["2"].shape[1])
    assert ranks[0] == ranks[1]


def test_networks_that_drop_layers_at_random_do_not_fill_the_memory_with_projectors() -> None:
    model, method = mlp(*[6] * 7, 3), OGD(directions_per_task=24)
    optimizer = sgd(model)
    generator = torch.Generator().manual_seed(0)
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    with warnings.catch_warnings(), method.attach(model, optimizer):
        warnings.simplefilter("ignore")  # little space is left in so small a net
        method.begin_task(task())
        step(model, optimizer, task())
        method.end_task()
        method.begin_task(task(1))
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(task(1)[0]), task(1)[1]).backward()
            for layer, drop in zip(linear, torch.rand(len(linear), generator=generator) < 0.5, strict=True):
                for parameter in layer.parameters():
                    parameter.grad = None if drop else parameter.grad
            optimizer.step()
        assert len(method._projection._restricted._made) <= 8
        method.end_task()

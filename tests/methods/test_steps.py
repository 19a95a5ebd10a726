"""Steps in anybody's loop, with any optimizer: what a method promises of them holds in all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from methods.loops import (
    EVERY,
    EXACT,
    LOOPS,
    OPTIMIZERS,
    accumulating,
    batches,
    flat,
    loss_of,
    net,
    plain,
    projector,
    scaling,
    second_task,
    task,
    trained,
    weights,
    whole,
)
from torch import Tensor, nn

from ong.errors import UserError
from ong.methods import FOPNG, NCL, OGD, SI

CLOSED = ("lbfgs",)  # optimizers that want a closure
PAIRS = [(name, "closing" if name in CLOSED else "plain") for name in OPTIMIZERS]
PAIRS += [(name, loop) for name in ("sgd", "sgd, momentum", "adam") for loop in LOOPS if loop != "plain"]
PAIRS += [("sgd, two groups", "parting"), ("sgd, two groups", "skipping"), ("sgd, rates and momentum", "skipping")]
PAIRS += [("sgd, fused", "scaling"), ("adam, fused", "scaling"), ("adamw, decay by group", "skipping")]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("optimizer", "loop"), PAIRS)
def test_displacements_have_no_part_along_stored_gradients(name: str, optimizer: str, loop: str) -> None:
    run = trained(name, optimizer, loop, 1e-3)
    moved, memory = flat(run.displacement), run.method.memory  # type: ignore[attr-defined]
    assert moved.norm() > 1e-5  # it did train
    lengths = memory.gram().diagonal().sqrt()
    along = memory.dot(run.displacement) / lengths / moved.norm()
    assert along.abs().max() < 1e-10  # float64, times the condition of G


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("optimizer", "loop"), PAIRS)
def test_stored_outputs_move_at_second_order_only(name: str, optimizer: str, loop: str) -> None:
    far, near = (trained(name, optimizer, loop, rate).moved_outputs(task(0)).norm() for rate in (1e-3, 1e-4))
    # A hundredth at a tenth of the rate; third orders and the rounding of differences of logits make up the rest.
    assert float(near / far) == pytest.approx(0.01, rel=0.1)


def reference(name: str, optimizer: str, loop: str, rate: float) -> tuple[Tensor, Tensor]:
    """Weights after the second task, and after θ ← θ − PΔ with dense P and the Δ that the optimizer makes alone."""
    run = trained(name, optimizer, loop, rate)
    model = copy.deepcopy(run.start)
    alone = OPTIMIZERS[optimizer](model, rate)
    parts = {key: [model.get_submodule(key).weight, model.get_submodule(key).bias] for key in run.method.blocks}
    projectors: dict[tuple[str, ...], Tensor] = {}

    def matrix(key: str, tensors: list[Tensor]) -> Tensor:
        return torch.cat([t.detach().reshape(len(t), -1) for t in tensors], 1)

    taken = alone.step

    def step(*args: Any) -> None:
        before = {key: matrix(key, tensors) for key, tensors in parts.items()}
        taken(*args)
        moving = tuple(key for key, tensors in parts.items() if any(p.grad is not None for p in tensors))
        if not moving:
            return
        delta = flat({key: before[key] - matrix(key, parts[key]) for key in moving})
        if moving not in projectors:
            projectors[moving] = projector(run.method, moving)
        delta = projectors[moving] @ delta
        for key, part in zip(moving, delta.split([before[key].numel() for key in moving]), strict=True):
            after = before[key] - part.reshape(before[key].shape)
            with torch.no_grad():
                parts[key][0].copy_(after[:, :-1])
                parts[key][1].copy_(after[:, -1])

    alone.step = step  # type: ignore[method-assign, assignment]
    LOOPS[loop](model, alone, task(1))
    return weights(run.model), weights(model)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    ("optimizer", "loop"),
    [
        (optimizer, loop)
        for optimizer, loop in PAIRS
        if loop not in ("closing", "scaling", "warming", "parting")
        # One momentum is of projected gradients until layers drop out and of plain ones after it.
        and not (loop == "skipping" and optimizer in ("sgd, momentum", "sgd, two groups"))
    ],
)
def test_every_step_is_the_optimizers_own_through_a_dense_projector(name: str, optimizer: str, loop: str) -> None:
    ours, dense = reference(name, optimizer, loop, 1e-2)
    torch.testing.assert_close(ours, dense, rtol=0, atol=1e-9)  # float64, through two ways to invert G's Gram


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_accumulated_batches_make_the_step_of_the_whole_batch(name: str, optimizer: str) -> None:
    made = [second_task(EVERY[name], OPTIMIZERS[optimizer], loop, 1e-2) for loop in (whole, accumulating)]
    accumulated, at_once = weights(made[1].model), weights(made[0].model)
    torch.testing.assert_close(accumulated, at_once, rtol=0, atol=1e-9)  # float64, sums in another order


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("optimizer", ["sgd", "sgd, momentum", "sgd, fused", "adam", "adam, fused"])
def test_a_scaled_loss_gives_the_weights_of_unscaled_training(name: str, optimizer: str) -> None:
    made = [second_task(EVERY[name], OPTIMIZERS[optimizer], loop, 1e-2) for loop in (plain, scaling)]
    # A scale of 2¹⁶ rounds nothing, so only fused kernels' own unscaling could.
    torch.testing.assert_close(weights(made[1].model), weights(made[0].model), rtol=0, atol=1e-12)


def overflowing(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[Tensor], *, skips: bool) -> None:
    """The second of four steps overflows, which a scaler leaves out."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for step, batch in enumerate(batches(data, 4)):
        if step == 1 and skips:
            continue
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch)).backward()
        if step == 1:
            next(model.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("name", [name for name in EVERY if name != "ONGReplay"])  # which draws examples for it
@pytest.mark.parametrize("optimizer", ["sgd", "sgd, fused", "adam, fused"])
def test_a_step_that_overflows_is_left_out(name: str, optimizer: str) -> None:
    made = []
    for skips in (True, False):

        def loop(m: nn.Module, o: torch.optim.Optimizer, d: list[Tensor], skips: bool = skips) -> None:
            overflowing(m, o, d, skips=skips)

        made.append(second_task(EVERY[name], OPTIMIZERS[optimizer], loop, 1e-2))
    assert made[1].method.memory_bytes == made[0].method.memory_bytes
    torch.testing.assert_close(weights(made[1].model), weights(made[0].model), rtol=0, atol=1e-12)


def test_a_step_that_overflows_leaves_no_trace_in_the_importance_of_si() -> None:
    model, method, data = net(), SI(), task()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    with method.attach(model, optimizer):
        method.begin_task(data)
        overflowing(model, optimizer, data, skips=False)
        method.end_task()
    assert all(part.isfinite().all() for part in method.importance.values())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("optimizer", ["sgd", "sgd, rates", "adam"])
def test_after_a_step_grad_is_the_gradient_of_the_loss(name: str, optimizer: str) -> None:
    def loop(m: nn.Module, o: torch.optim.Optimizer, d: list[Tensor]) -> None:
        o.zero_grad()
        loss_of(m, d).backward()
        before = [(p.grad, p.grad.clone()) for p in m.parameters()]  # type: ignore[union-attr]
        o.step()
        for p, (tensor, value) in zip(m.parameters(), before, strict=True):
            assert p.grad is tensor
            assert torch.equal(tensor, value)  # type: ignore[arg-type]

    second_task(EVERY[name], OPTIMIZERS[optimizer], loop)


@pytest.mark.parametrize("name", EVERY)
def test_attached_models_keep_their_weights_layers_and_storage(name: str) -> None:
    """A penalty on weights, or whatever else reads them, sees the true ones."""
    model = net()
    was = {key: (type(m), m.forward.__func__, set(m.__dict__)) for key, m in model.named_modules()}  # type: ignore[attr-defined]
    places = {key: (p, p.data_ptr()) for key, p in model.named_parameters()}

    def loop(m: nn.Module, o: torch.optim.Optimizer, d: list[Tensor]) -> None:
        pass

    def looked_at(m: nn.Module, o: torch.optim.Optimizer, d: list[Tensor]) -> None:
        before = copy.deepcopy(m.state_dict())
        for batch in batches(d, 4):
            o.zero_grad()
            penalty = sum(p.abs().sum() for p in m.parameters())
            assert penalty.item() == pytest.approx(sum(v.abs().sum().item() for v in before.values()), rel=1e-12)
            (loss_of(m, batch) + 0.1 * penalty).backward()
            o.step()
            assert {key: (p, p.data_ptr()) for key, p in m.named_parameters()} == places
            assert {key: (type(x), x.forward.__func__, set(x.__dict__)) for key, x in m.named_modules()} == was  # type: ignore[attr-defined]

    method, data = EVERY[name](), [task(0), task(1)]
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    with method.attach(model, sgd):
        for part in data:
            method.begin_task(part)
            looked_at(model, sgd, part)
            method.end_task()


@pytest.mark.parametrize("name", EVERY)
def test_a_detached_method_leaves_no_hook(name: str) -> None:
    model, method = net(), EVERY[name]()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with method.attach(model, sgd):
        for seed in range(2):
            method.begin_task(task(seed))
            plain(model, sgd, task(seed))
            method.end_task()
        method.begin_task(task(2))  # left in the middle
    assert not sgd._optimizer_step_pre_hooks
    assert not sgd._optimizer_step_post_hooks
    for module in model.modules():
        assert not any(value for key, value in module.__dict__.items() if key.endswith("_hooks"))


@pytest.mark.parametrize("when", ["before the first task", "between tasks"])
def test_a_step_outside_of_a_task_is_an_error(when: str) -> None:
    model, method = net(), OGD()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with method.attach(model, sgd):
        if when == "between tasks":
            method.begin_task(task())
            plain(model, sgd, task())
            method.end_task()
        before = weights(model)
        loss_of(model, task()).backward()
        with pytest.raises(UserError, match="outside of a task; call OGD.begin_task"):
            sgd.step()
        assert torch.equal(weights(model), before)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("change", ["a layer thaws", "a bias freezes", "a layer joins the optimizer"])
def test_parameters_that_begin_or_stop_to_train_in_a_task_are_an_error(optimizer: str, change: str) -> None:
    """Their steps would be projected by what the task began with, and stored outputs move."""
    model, method = net(), OGD(directions_per_task=12)
    among = model[2] if change == "a layer joins the optimizer" else model
    made = OPTIMIZERS[optimizer](among, 0.01)
    with method.attach(model, made):
        method.begin_task(task(0))
        plain(model, made, task(0))
        method.end_task()
        model[0].requires_grad_(change != "a layer thaws")
        method.begin_task(task(1))
        if change == "a layer joins the optimizer":
            made.add_param_group({"params": list(model[0].parameters())})
        elif change == "a layer thaws":
            model[0].requires_grad_(True)
        else:
            model[0].bias.requires_grad_(False)
        before = weights(model)
        with pytest.raises(UserError, match="'0.weight'.*call begin_task"):
            plain(model, made, task(1))
        assert torch.equal(weights(model), before)
        model[0].requires_grad_(True)
        method.begin_task(task(1))
        plain(model, made, task(1))


def test_parameters_of_the_criterion_train_beside_the_models() -> None:
    model, method, scale = net(), OGD(directions_per_task=12), nn.Parameter(torch.ones((), dtype=torch.float64))
    sgd = torch.optim.SGD([*model.parameters(), scale], lr=0.01)
    with method.attach(model, sgd):
        for seed in range(2):
            method.begin_task(task(seed))
            before = scale.item()
            sgd.zero_grad()
            (loss_of(model, task(seed)) * scale).backward()
            sgd.step()
            assert scale.item() == pytest.approx(before - 0.01 * scale.grad.item(), rel=1e-12)  # type: ignore[union-attr]
            method.end_task()


@pytest.mark.parametrize("name", EXACT)
def test_momentum_from_before_a_task_does_not_reach_into_it(name: str) -> None:
    model, method = net(), EVERY[name]()
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    method.attach(model, sgd)
    method.begin_task(task(0))
    plain(model, sgd, task(0))
    method.end_task()
    method.detach()
    plain(model, sgd, task(5))  # steps without the method
    method.attach(model, sgd)
    method.begin_task(task(1))
    before = weights(model)
    method_blocks = {key: block.values() for key, block in method.blocks.items()}
    plain(model, sgd, task(1))
    moved = {key: value - method.blocks[key].values() for key, value in method_blocks.items()}
    assert not torch.equal(weights(model), before)
    along = method.memory.dot(moved) / method.memory.gram().diagonal().sqrt()  # type: ignore[attr-defined]
    assert along.abs().max() < 1e-10 * flat(moved).norm()  # float64, times the condition of G


def test_two_methods_on_one_optimizer_are_an_error() -> None:
    """What comes last would undo what the other promises."""
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    with OGD().attach(model, sgd), pytest.raises(UserError, match="OGD rewrites the steps of this optimizer already"):
        NCL().attach(model, sgd)
    assert not sgd._optimizer_step_pre_hooks
    with NCL().attach(model, sgd) as method:
        method.attach(model, sgd)  # itself again
        assert len(sgd._optimizer_step_pre_hooks) == 1


@pytest.mark.parametrize("optimizer", ["adam", "sgd, rates", "sgd, decay"])
def test_steps_of_one_length_go_with_plain_sgd_only(optimizer: str) -> None:
    """A displacement has its rate in it already, which a division by its length would take out."""
    with pytest.raises(UserError, match="steps of one length"):
        second_task(lambda: FOPNG(trust_region=True, directions_per_task=6), OPTIMIZERS[optimizer], plain)


AUTOCAST = ["in the model", "around the model", "around everything"]


class Autocast(nn.Module):
    """Runs in bfloat16, with float32 weights."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("where", AUTOCAST)
def test_autocast_keeps_what_is_promised_of_a_step(name: str, where: str) -> None:
    model, method = net().float(), EVERY[name]()
    if where == "in the model":
        model = Autocast(model)  # type: ignore[assignment]
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    everywhere = torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "around everything")
    with method.attach(model, sgd), everywhere:
        for seed in range(2):
            x, y = task(seed)
            method.begin_task([x.float(), y])
            before = {key: block.values().clone() for key, block in method.blocks.items()}
            for _ in range(3):
                sgd.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=where != "in the model"):
                    loss = nn.functional.cross_entropy(model(x.float()), y)
                loss.backward()
                sgd.step()
            moved = {key: part - method.blocks[key].values() for key, part in before.items()}
            if seed and name in EXACT:
                with torch.autocast("cpu", enabled=False):
                    along = method.memory.dot(moved) / method.memory.gram().diagonal().sqrt()  # type: ignore[attr-defined]
                assert along.abs().max() < 1e-4 * flat(moved).norm()  # float32, times G's condition
            method.end_task()
    assert len(method.blocks) == 2  # layers, by their factors
    assert weights(model).isfinite().all()

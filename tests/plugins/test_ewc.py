"""Elastic weight consolidation: per-example Fishers, and penalties that are what their formula says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from harness import learner, tasks, with_and_without_a_break
from nets import fisher, flat, jacobian, mlp, seeded, unflat
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ong.curvature import EKFAC, DiagonalPenalty, EKFACPenalty, FisherType, diagonal_fisher, find_blocks
from ong.plugins import EWC

pytestmark = pytest.mark.filterwarnings("ignore:No loggers")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv_net() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))
    return seeded(model, torch.Generator().manual_seed(0))


NETS: list[Any] = [pytest.param(mlp(4, 5, 3), (9, 4), id="mlp"), pytest.param(conv_net(), (9, 1, 5, 5), id="conv")]


@pytest.mark.parametrize(("model", "shape"), NETS)
def test_the_exact_diagonal_is_that_of_the_fisher(model: nn.Module, shape: tuple[int, ...]) -> None:
    x, blocks = random(*shape), find_blocks(model)
    y = torch.zeros(len(x), dtype=torch.long)
    found = flat(diagonal_fisher(model, [(x[:4], y[:4]), (x[4:], y[4:])], fisher="exact"), blocks)
    expected = fisher(jacobian(model, x, blocks), model(x)).diagonal()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("model", "shape"), NETS)
def test_the_empirical_diagonal_squares_gradients_example_by_example(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Against torch.func; the square of the batch's mean gradient, as common code has it, is far from it."""
    x, y = random(*shape), torch.arange(shape[0]) % 3
    model.eval()
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    found = diagonal_fisher(model, [(x, y)], fisher="empirical")
    for name, block in find_blocks(model).items():
        names = [next(n for n, p in model.named_parameters() if p is q) for q in block.parameters]
        columns = torch.cat([each[n].reshape(len(x), block.rows, -1) for n in names], 2)
        torch.testing.assert_close(found[name], columns.square().mean(0), rtol=1e-9, atol=1e-12)
        assert columns.mean(0).square().sum() < 0.5 * found[name].sum()


@pytest.mark.parametrize("kind", ["mc", "rademacher"])
def test_random_diagonals_approach_the_exact_one(kind: FisherType) -> None:
    model, x = mlp(4, 5, 3), random(40, 4)
    exact = flat(diagonal_fisher(model, [(x,)], fisher="exact"), find_blocks(model))
    drawn = flat(diagonal_fisher(model, [(x,)], fisher=kind, samples=400), find_blocks(model))
    assert (drawn - exact).norm() < 0.05 * exact.norm()  # 16,000 draws


def three_tasks() -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]], dict[str, Tensor]]:
    """Fishers, some entries zero, anchors, and weights to measure at."""
    fishers = [{"a": random(2, 3, seed=s).square() * (random(2, 3, seed=s + 9) > 0)} for s in range(3)]
    return fishers, [{"a": random(2, 3, seed=s + 20)} for s in range(3)], {"a": random(2, 3, seed=40)}


def test_one_parabola_holds_the_sum_over_tasks_value_and_gradient() -> None:
    fishers, anchors, theta = three_tasks()
    penalty = DiagonalPenalty()
    for diagonal, anchor in zip(fishers, anchors, strict=True):
        penalty.add(diagonal, anchor)
    theta = {"a": theta["a"].requires_grad_()}
    expected = sum((0.5 * f["a"] * (theta["a"] - a["a"]) ** 2).sum() for f, a in zip(fishers, anchors, strict=True))
    assert isinstance(expected, Tensor)
    value = penalty.fitted(theta).value(theta)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        *(torch.autograd.grad(v, theta["a"], retain_graph=True)[0] for v in (value, expected)), rtol=1e-12, atol=1e-14
    )
    assert penalty.bytes == 2 * 6 * 8  # however many tasks


def test_the_online_parabola_decays_and_moves_to_the_newest_weights() -> None:
    fishers, anchors, theta = three_tasks()
    penalty = DiagonalPenalty()
    for diagonal, anchor in zip(fishers, anchors, strict=True):
        penalty.replace(diagonal, anchor, 0.5)
    total = 0.25 * fishers[0]["a"] + 0.5 * fishers[1]["a"] + fishers[2]["a"]
    expected = (0.5 * total * (theta["a"] - anchors[2]["a"]) ** 2).sum()
    torch.testing.assert_close(penalty.value(theta), expected, rtol=1e-12, atol=1e-14)


def test_the_ekfac_penalty_is_its_quadratic_form_and_exact_for_one_example() -> None:
    model, x = mlp(4, 5, 3), random(1, 4)
    blocks = find_blocks(model)
    ekfac = EKFAC.fit(model, [(x, torch.tensor([2]))], fisher="empirical")
    centre = {n: b.values() for n, b in blocks.items()}
    moved = unflat(flat(centre, blocks) + random(sum(p.numel() for p in model.parameters())), blocks)
    value = EKFACPenalty(ekfac, centre).fitted(centre).value(moved)
    residual = torch.softmax(model(x).detach(), 1)[0] - nn.functional.one_hot(torch.tensor(2), 3)
    gradient = unflat(residual @ jacobian(model, x, blocks)[0], blocks)
    expected = 0.5 * sum(((moved[n] - centre[n]) * gradient[n]).sum() ** 2 for n in blocks)  # layer by layer
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["diagonal", "ekfac"])
def test_rows_and_columns_a_layer_gains_carry_no_penalty(kind: str) -> None:
    model, x = mlp(4, 5, 3), random(9, 4)
    blocks = find_blocks(model)
    centre = {n: b.values() for n, b in blocks.items()}
    if kind == "diagonal":
        penalty: Any = DiagonalPenalty()
        penalty.add(diagonal_fisher(model, [(x,)]), centre)
    else:
        penalty = EKFACPenalty(EKFAC.fit(model, [(x,)]), centre)
    grown = {n: nn.functional.pad(theta + 0.1, (0, 0, 0, 2), value=7.0) for n, theta in centre.items()}
    old = {n: theta + 0.1 for n, theta in centre.items()}
    torch.testing.assert_close(penalty.fitted(grown).value(grown), penalty.fitted(old).value(old), rtol=1e-12, atol=0)
    less = {"0": old["0"]}  # a frozen layer's share is a constant
    apart = {name: centre[name] if name != "0" else old["0"] for name in centre}
    torch.testing.assert_close(penalty.fitted(less).value(less), penalty.fitted(apart).value(apart))


class Losses(SupervisedPlugin):
    """Notes loss, cross-entropy, weights and gradient of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        plain = strategy.criterion()
        values = {n: b.values() for n, b in find_blocks(strategy.model).items()}
        self.seen.append((strategy.loss.detach()[0].double(), plain.detach(), values))  # Avalanche sums in float32


def second_task(**options: Any) -> tuple[Losses, EWC, dict[str, Tensor], Tensor]:
    """Losses of a second task, the plugin as it stood before it, and the first task's weights and inputs."""
    torch.manual_seed(0)
    model, plugin, losses = mlp(6, 8, 3), EWC(**options), Losses()
    strategy = learner(model, plugin, losses, lr=0.01)
    stream = tasks(2).train_stream
    strategy.train(stream[0], eval_streams=[])
    anchor = {n: b.values() for n, b in find_blocks(model).items()}
    before = EWC(**options)
    before.load_state_dict(plugin.state_dict())
    for loss, plain, _ in losses.seen:  # nothing to keep in the first task
        torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    losses.seen.clear()
    strategy.train(stream[1], eval_streams=[])
    return losses, before, anchor, torch.stack([e[0] for e in stream[0].dataset])


def test_training_adds_half_lambda_f_times_the_squared_move_and_not_zero() -> None:
    losses, before, anchor, x = second_task(strength=7.0, fisher="exact")
    assert isinstance(before.penalties[0], DiagonalPenalty)
    model = mlp(6, 8, 3)
    for name, block in find_blocks(model).items():
        block.weight.data, block.bias.data = anchor[name][:, :-1].clone(), anchor[name][:, -1].clone()  # type: ignore
    expected_fisher = diagonal_fisher(model, [(x,)], fisher="exact")
    for loss, plain, theta in losses.seen:
        added = 3.5 * sum((expected_fisher[n] * (theta[n] - anchor[n]) ** 2).sum() for n in anchor)
        torch.testing.assert_close(loss, plain + added, rtol=1e-6, atol=0)
    assert losses.seen[-1][0] > losses.seen[-1][1] + 1e-4


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_the_ekfac_penalty_enters_the_loss(mode: str) -> None:
    losses, before, anchor, _ = second_task(strength=7.0, penalty="ekfac", mode=mode)
    (penalty,) = before.penalties
    assert isinstance(penalty, EKFACPenalty)
    for loss, plain, theta in losses.seen:
        moved = {n: theta[n] - anchor[n] for n in anchor}
        force = penalty.ekfac.apply(moved, power=1.0)
        added = 3.5 * sum((force[n] * moved[n]).sum() for n in anchor)
        torch.testing.assert_close(loss, plain + added, rtol=1e-6, atol=0)
    assert losses.seen[-1][0] > losses.seen[-1][1] + 1e-4


@pytest.mark.parametrize(("mode", "count"), [("separate", 3), ("online", 1)])
def test_ekfac_penalties_are_kept_by_task_or_merged(mode: Any, count: int) -> None:
    model, plugin = mlp(6, 8, 3), EWC(penalty="ekfac", mode=mode, strength=1.0)
    strategy = learner(model, plugin)
    for experience in tasks(3).train_stream:
        strategy.train(experience, eval_streams=[])
    assert len(plugin.penalties) == count


def test_a_stronger_penalty_keeps_the_weights_that_mattered_nearer() -> None:
    moves = []
    for strength in (0.0, 10.0, 100.0):
        losses, before, _, _ = second_task(strength=strength, fisher="exact")
        theta = losses.seen[-1][2]
        moves.append(float(before.penalties[0].fitted(theta).value(theta)))
    assert moves[0] > moves[1] > moves[2]


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "online", "decay": 0.9}, {"penalty": "ekfac"}, {"penalty": "ekfac", "mode": "online", "decay": 0.9}],
)
def test_a_break_changes_nothing(options: dict[str, Any]) -> None:
    whole, resumed = with_and_without_a_break(lambda: EWC(strength=1.0, **options))
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "strength must not be negative"),
        ({"penalty": "diag"}, "did you mean 'diagonal'"),
        ({"mode": "on-line"}, "did you mean 'online'"),
        ({"decay": 0.5}, "needs mode='online'"),
        ({"decay": 1.5, "mode": "online"}, r"decay must be in \[0, 1\]"),
        ({"fisher_examples": 0}, "fisher_examples must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EWC(**options)

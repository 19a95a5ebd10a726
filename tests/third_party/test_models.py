"""Models of other libraries, in float64: every parameter covered, gradients exact, stored outputs at second order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from third_party import (
    avalanche_models,
    peft_models,
    timm_models,
    torch_models,
    torchvision_models,
    transformers_models,
)
from third_party.cases import CLASSES, EXAMPLES, Case, drawn
from torch import Tensor, nn

from ong.curvature import Batch, cover, dense_gradient, evaluating, example_gradients, logits_of, select, targets_of
from ong.methods import OGD, Method, ONGPrior

LIBRARIES = {
    "torch": torch_models,
    "avalanche": avalanche_models,
    "torchvision": torchvision_models,
    "timm": timm_models,
    "transformers": transformers_models,
    "peft": peft_models,
}
CASES: dict[str, Case] = {
    f"{library}, {name}": case for library, module in LIBRARIES.items() for name, case in module.CASES.items()
}
METHODS: dict[str, Callable[[], Method]] = {
    "OGD": lambda: OGD(directions_per_task=EXAMPLES),
    "ONGPrior": lambda: ONGPrior(directions_per_task=EXAMPLES, examples_per_task=EXAMPLES, damping=0.1),
}
pytestmark = [
    pytest.mark.third_party,
    pytest.mark.filterwarnings("ignore:.*of the space is left"),
]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each model whose library is installed."""
    pytest.importorskip(request.param.split(",")[0])
    return CASES[request.param]


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def run(case: Case, model: nn.Module, batch: Batch) -> Tensor:
    forward = case.forward(model)
    return logits_of(model, batch) if forward is None else forward(batch)


def gradients(case: Case, model: nn.Module, batch: Batch, cotangents: Tensor) -> list[list[Tensor]]:
    """∇ u_nᵀh(x_n) of each example by autograd, a tensor a parameter.

    Each example is there twice, the second one without a cotangent: torch's batch normalisation of one example alone
    has wrong gradients in eval mode where its cotangent comes transposed.
    """
    found = []
    with evaluating(model):
        for n in range(EXAMPLES):
            outputs = run(case, model, select(batch, torch.tensor([n, n])))[:1]
            taken = torch.autograd.grad(
                outputs, trained(model), cotangents[n : n + 1], retain_graph=True, allow_unused=True
            )
            found.append([dense_gradient(g, p) for g, p in zip(taken, trained(model), strict=True)])
    return found


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def test_every_parameter_is_in_one_block_and_gradients_are_those_of_autograd(case: Case) -> None:
    model, generator = drawn(case), torch.Generator().manual_seed(0)
    batch = case.batch(generator)
    blocks = cover(model, lambda batch: run(case, model, batch), batch)
    held = [id(parameter) for block in blocks.values() for parameter in block.parameters]
    assert sorted(held) == sorted(map(id, trained(model)))
    with evaluating(model):
        u = torch.randn(run(case, model, batch).shape, generator=generator, dtype=torch.float64)
        (factors,) = example_gradients(blocks, lambda batch: run(case, model, batch), batch, lambda *_: [u])
    expected = gradients(case, model, batch, u)
    whole = torch.stack([flat(parts) for parts in expected]).norm()
    place = {id(parameter): i for i, parameter in enumerate(trained(model))}
    for name, block in blocks.items():
        exact = torch.stack([block.matrix([parts[place[id(p)]] for p in block.parameters]) for parts in expected])
        found = torch.zeros_like(exact)
        if name in factors:
            found = torch.einsum("ntr,ntc->nrc", factors[name].outputs, factors[name].inputs)
        # a key's bias has no effect: its gradient is a rounding of the others'
        assert (found - exact).norm() <= 1e-10 * exact.norm() + 1e-14 * whole, name


def task(case: Case, seed: int) -> Batch:
    return case.batch(torch.Generator().manual_seed(seed))


def one_hot(batch: Batch) -> Tensor:
    return nn.functional.one_hot(targets_of(batch), CLASSES).double()


def named(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, and buffers that training moves."""
    return [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if b.is_floating_point())]


def step(case: Case, model: nn.Module, sgd: torch.optim.SGD, batch: Batch, length: float | None = None) -> None:
    """Take a step, at a rate at which a plain one has the length."""
    sgd.zero_grad()
    nn.functional.cross_entropy(run(case, model, batch), targets_of(batch)).backward()
    if length is not None:
        sgd.param_groups[0]["lr"] = length / float(
            nn.utils.get_total_norm([p.grad for p in trained(model) if p.grad is not None])
        )
    sgd.step()


def movement(case: Case, method: Method) -> tuple[float, float]:
    """What two steps of a second task do to the stored outputs of a first, at a rate and at a tenth of it.

    Returns:
        ‖h(θ_new) − h(θ_old)‖ of the stored outputs at the one over that at the other, and max_i |g_iᵀΔ|/(‖g_i‖‖Δ‖).
    """
    model = drawn(case)
    first, second = task(case, 1), task(case, 2)
    sgd = torch.optim.SGD(trained(model), lr=1e-2)
    method.attach(model, sgd, logits=case.forward(model)).begin_task([first])
    model.train()
    step(case, model, sgd, first)
    method.end_task()
    method.begin_task([second])
    state = {name: tensor.clone() for name, tensor in named(model)}

    def stored() -> Tensor:
        with evaluating(model), torch.no_grad():
            return run(case, model, first).gather(1, targets_of(first)[:, None])[:, 0]

    before, old = stored(), flat(trained(model))
    g = torch.stack([flat(parts) for parts in gradients(case, model, first, one_hot(first))])
    moved, leak = [], []
    for rate in (1.0, 0.1):
        with torch.no_grad():
            for name, tensor in named(model):
                tensor.copy_(state[name])
        torch.manual_seed(0)  # dropout
        for again in range(2):
            step(case, model, sgd, second, length=rate * case.length if not again else None)
        change = flat(trained(model)) - old
        moved.append(float((stored() - before).norm()))
        leak.append(((g @ change).abs() / (g.norm(dim=1) * change.norm())).max())
    method.detach()
    return moved[0] / moved[1], float(torch.stack(leak).max())


@pytest.mark.parametrize("method", METHODS)
def test_steps_move_stored_outputs_by_the_square_of_their_length(case: Case, method: str) -> None:
    ratio, leak = movement(case, METHODS[method]())
    assert leak < 1e-8
    if case.order == 2:
        assert ratio > 50  # 100; more where the longer step crosses the kink of a ReLU
    else:
        assert ratio == pytest.approx(10, rel=0.2)


def test_plain_steps_move_them_by_their_length(case: Case) -> None:
    ratio, leak = movement(case, Method(batch_norm="freeze"))
    assert leak > 1e-3
    assert ratio == pytest.approx(10, rel=0.2)

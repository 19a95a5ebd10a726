from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ong.errors import UserError
from ong.natural.deep_linear import (
    DeepLinearNetwork,
    LinearProblem,
    any_width_step,
    blow_up_time,
    eigenvalue_recursion,
    flow_excess_ratio,
    flow_product,
    minimum_norm_step,
    paper_step,
    square_recursion,
    teacher_eigenvalues,
)

Make = Callable[..., tuple[DeepLinearNetwork, LinearProblem]]


@pytest.mark.parametrize("form", [paper_step, minimum_norm_step, any_width_step])
@pytest.mark.parametrize("dims", [[3, 5, 3], [3, 4, 6, 5, 2]])
def test_small_steps_follow_the_exponential_flow(make: Make, form, dims: list[int]) -> None:  # type: ignore[no-untyped-def]
    network, problem = make(dims)
    start = network.product
    alpha, steps = 1e-3, 500
    for _ in range(steps):
        network = network.moved(form(network, problem), alpha)
    flow = flow_product(start, problem.teacher, alpha * steps)
    # Euler's error is of order α relative to the distance to go; 20 α allows for the map's curvature.
    assert float((network.product - flow).norm() / (start - flow).norm()) < 0.02
    ratio = problem.excess(flow) / problem.excess(start)
    assert ratio == pytest.approx(flow_excess_ratio(alpha * steps), rel=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_square_nets_follow_the_recursion_of_their_product(make: Make, depth: int) -> None:
    network, problem = make([4] * (depth + 1), seed=3)
    moved = network.moved(paper_step(network, problem), 0.3)
    expected = square_recursion(network.product, problem.teacher, depth, 0.3)
    # Relative to the largest entry: the recursion inverts W, whose condition number reaches 1e4 at depth 6.
    assert float((moved.product - expected).abs().max() / expected.abs().max()) < 1e-9


def test_eigenvalues_of_square_nets_follow_their_scalar_recursion(make: Make) -> None:
    network, problem = make([4, 4, 4], seed=3)
    before = teacher_eigenvalues(network.product, problem.teacher)
    moved = network.moved(paper_step(network, problem), 0.3)
    after = teacher_eigenvalues(moved.product, problem.teacher)
    expected = eigenvalue_recursion(before, 2, 0.3)
    distances = (after[:, None] - expected[None, :]).abs()
    scale = expected.abs().max()
    assert float(distances.min(dim=0).values.max() / scale) < 1e-9  # conditioning of the eigenvalues, 1e3 or so
    assert float(distances.min(dim=1).values.max() / scale) < 1e-9


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0, 1.5, 1.9])
def test_fixed_point_of_the_recursion_has_slope_one_minus_alpha(alpha: float) -> None:
    offset = torch.tensor([1e-6], dtype=torch.float64)
    slope = (eigenvalue_recursion(1 + offset, 4, alpha) - 1) / offset
    assert float(slope) == pytest.approx(1 - alpha, abs=1e-5)  # second order: r'' ≈ 1, times the offset


def test_even_depth_keeps_the_sign_of_a_real_eigenvalue() -> None:
    ratio = torch.tensor([-3.0, -0.1, 0.2, 40.0], dtype=torch.float64)
    for _ in range(20):
        following = eigenvalue_recursion(ratio, 2, 0.1)
        assert torch.equal(following.sign(), ratio.sign())
        ratio = following


def test_blow_up_time_is_when_the_determinant_of_the_flow_vanishes() -> None:
    start = torch.diag(torch.tensor([1.0, 2.0, 3.0])).double()
    teacher = torch.diag(torch.tensor([-2.0, -1.0, 3.0])).double()  # ratios −2, −1/2, 1
    time = blow_up_time(start, teacher)
    assert time == pytest.approx(math.log(1.5), rel=1e-14)
    assert float(torch.linalg.det(flow_product(start, teacher, time))) == pytest.approx(0.0, abs=1e-14)
    assert float(torch.linalg.det(flow_product(start, teacher, 0.99 * time))) > 0


def test_complex_and_positive_eigenvalues_never_blow_up() -> None:
    rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    eye = torch.eye(2, dtype=torch.float64)
    assert blow_up_time(eye, rotation) == math.inf
    assert blow_up_time(eye, 3 * eye) == math.inf


def test_the_step_grows_without_bound_as_the_flow_nears_its_blow_up() -> None:
    eye = torch.eye(1, dtype=torch.float64)
    network = DeepLinearNetwork((eye, eye))
    problem = LinearProblem(eye, -eye, eye)
    assert blow_up_time(network.product, problem.teacher) == pytest.approx(math.log(2))
    sizes = []
    for time in (0.0, 0.5 * math.log(2), 0.99 * math.log(2)):
        w = flow_product(eye, -eye, time).sqrt()
        sizes.append(float(paper_step(DeepLinearNetwork((w, w)), problem)[0].abs()))
    # ΔW_1 = (w* − w)/(2√w): 1 at w = 1, and √w → 0.
    assert sizes[0] == pytest.approx(1.0)
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] > 4


def test_recursions_of_square_nets_refuse_other_shapes() -> None:
    with pytest.raises(UserError, match=r"shapes \(2, 3\) and \(2, 3\)"):
        square_recursion(torch.zeros(2, 3), torch.zeros(2, 3), 2, 0.1)
    with pytest.raises(UserError, match="square matrices of one size"):
        blow_up_time(torch.eye(2), torch.eye(3))

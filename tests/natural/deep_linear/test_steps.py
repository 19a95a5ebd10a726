from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ong.errors import UserError
from ong.natural.deep_linear import (
    DeepLinearNetwork,
    LinearProblem,
    any_width_step,
    exactness,
    fisher_matrix,
    flatten,
    layer_counts,
    minimum_norm_step,
    natural_gradient_residual,
    paper_step,
)

Make = Callable[..., tuple[DeepLinearNetwork, LinearProblem]]

WIDE = [[3, 3], [3, 5, 2], [2, 5, 3], [4, 4, 4], [3, 4, 5, 3], [5, 6, 5, 7, 5, 3]]
NARROW = [[4, 2, 4], [4, 3, 3], [2, 3, 4], [5, 6, 2, 6, 5], [6, 4, 3, 5, 6], [4, 1, 4, 4]]
LONG = [20, 20, 20, 20, 20, 20, 20]


def brute_force_minimum_norm(network: DeepLinearNetwork, problem: LinearProblem) -> tuple[Tensor, float]:
    """−F⁺∇ by a pseudo-inverse of the explicit Fisher matrix, and the condition of its nonzero part."""
    fisher = fisher_matrix(network, problem)  # its zero eigenvalues are rounding, near 1e-16
    inverse = torch.linalg.pinv(fisher, rtol=1e-11, hermitian=True)
    condition = torch.linalg.matrix_norm(fisher, 2) * torch.linalg.matrix_norm(inverse, 2)
    return -inverse @ flatten(problem.gradients(network)), float(condition)


@pytest.mark.parametrize("dims", WIDE)
@pytest.mark.parametrize("deficient", [False, True])
def test_papers_form_is_exact_when_hidden_layers_are_wide(make: Make, dims: list[int], deficient: bool) -> None:
    network, problem = make(dims, input_rank=dims[0] - 1 if deficient else None)
    assert exactness("paper", dims).exact
    # Rounding times the conditioning of the products of a few random layers: 1e-16 … 1e-11 as measured.
    assert natural_gradient_residual(network, problem, paper_step(network, problem), explicit=True) < 1e-11


@pytest.mark.parametrize("dims", NARROW)
def test_papers_form_is_inexact_with_a_narrow_hidden_layer(make: Make, dims: list[int]) -> None:
    network, problem = make(dims)
    assert not exactness("paper", dims).exact
    # Eight orders above what rounding gives where it is exact; measured 7e-4 … 0.5.
    assert natural_gradient_residual(network, problem, paper_step(network, problem), explicit=True) > 1e-4


def test_papers_form_needs_only_the_rank_of_the_inputs(make: Make) -> None:
    network, problem = make([6, 3, 3, 3], input_rank=3)
    assert exactness("paper", [6, 3, 3, 3], input_rank=3).exact
    assert natural_gradient_residual(network, problem, paper_step(network, problem)) < 1e-11


@pytest.mark.parametrize("dims", WIDE + NARROW)
@pytest.mark.parametrize("deficient", [False, True])
def test_any_width_form_is_exact_on_twelve_architectures(make: Make, dims: list[int], deficient: bool) -> None:
    network, problem = make(dims, input_rank=dims[0] - 1 if deficient else None)
    residual = natural_gradient_residual(network, problem, any_width_step(network, problem), explicit=True)
    assert residual <= 1e-12


@pytest.mark.parametrize("dims", WIDE + NARROW)
@pytest.mark.parametrize("deficient", [False, True])
def test_minimum_norm_form_is_minus_the_pseudo_inverse_times_the_gradient(
    make: Make, dims: list[int], deficient: bool
) -> None:
    network, problem = make(dims, input_rank=dims[0] - 1 if deficient else None)
    ours = flatten(minimum_norm_step(network, problem))
    theirs, condition = brute_force_minimum_norm(network, problem)
    # 1e-11 relative; but no oracle that inverts F beats eps times its condition number (up to 1e6 here).
    assert float((ours - theirs).norm() / theirs.norm()) < max(1e-11, 10 * 2.2e-16 * condition)


def test_minimum_norm_form_with_full_row_rank_is_free_of_both_covariances(make: Make) -> None:
    network, problem = make([3, 5, 4, 2])
    gram = sum(
        torch.kron(b @ b.T, a.T @ a) for b, a in zip(network.output_products, network.input_products, strict=True)
    )
    error = (network.product - problem.teacher).reshape(-1)
    assert isinstance(gram, Tensor)
    y = torch.linalg.solve(gram, error).reshape(2, 3)
    expected = [-b.T @ y @ a.T for b, a in zip(network.output_products, network.input_products, strict=True)]
    torch.testing.assert_close(minimum_norm_step(network, problem), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dims", WIDE + NARROW)
def test_minimum_norm_is_the_shortest_of_the_exact_steps(make: Make, dims: list[int]) -> None:
    network, problem = make(dims)
    shortest = float(flatten(minimum_norm_step(network, problem)).norm())
    assert shortest <= float(flatten(any_width_step(network, problem)).norm()) * (1 + 1e-12)


def test_papers_form_is_not_of_minimum_norm(make: Make) -> None:
    network, problem = make([3, 4, 3])
    paper, shortest = flatten(paper_step(network, problem)), flatten(minimum_norm_step(network, problem))
    assert float(paper.norm()) > 1.01 * float(shortest.norm())  # no rounding makes a percent


@pytest.mark.parametrize("dims", WIDE)
def test_papers_form_is_the_any_width_form_where_every_count_is_the_depth(make: Make, dims: list[int]) -> None:
    network, problem = make(dims)
    torch.testing.assert_close(any_width_step(network, problem), paper_step(network, problem), rtol=1e-11, atol=1e-11)


def test_layer_counts_of_a_bottleneck_and_of_wide_layers() -> None:
    like = torch.zeros(3, 3, dtype=torch.float64)
    # 3-1-3: layer 1 reaches row 0 and every column, layer 2 every row and column 0.
    expected = torch.tensor([[2.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(layer_counts([1, 3], [3, 1], like), expected)
    assert torch.equal(layer_counts([3, 3], [3, 3], like), torch.full_like(like, 2.0))


def test_papers_form_is_kfac_over_the_depth(make: Make) -> None:
    network, problem = make([4, 4, 4, 4])
    for step, gradient, b, a in zip(
        paper_step(network, problem),
        problem.gradients(network),
        network.output_products,
        network.input_products,
        strict=True,
    ):
        outputs = b.T @ torch.linalg.inv(problem.noise_cov) @ b
        inputs = a @ problem.input_cov @ a.T
        expected = -torch.linalg.inv(outputs) @ gradient @ torch.linalg.inv(inputs) / 3
        # The oracle squares the condition numbers of the products, near 1e3 each.
        assert float((step - expected).norm() / expected.norm()) < 1e-9


@pytest.mark.parametrize("dims", [[4, 4, 4], [4, 2, 4]])
def test_damping_is_added_to_both_kronecker_factors(make: Make, dims: list[int]) -> None:
    network, problem = make(dims)
    eye = [torch.eye(n, dtype=torch.float64) for n in dims]
    for layer, (step, gradient, b, a) in enumerate(
        zip(
            paper_step(network, problem, damping=0.04),
            problem.gradients(network),
            network.output_products,
            network.input_products,
            strict=True,
        )
    ):
        outputs = b.T @ torch.linalg.inv(problem.noise_cov) @ b + 0.2 * eye[layer + 1]
        inputs = a @ problem.input_cov @ a.T + 0.2 * eye[layer]
        expected = -torch.linalg.inv(outputs) @ gradient @ torch.linalg.inv(inputs) / 2
        torch.testing.assert_close(step, expected, rtol=0, atol=1e-12)


def test_damped_minimum_norm_form_inverts_the_damped_fisher_matrix(make: Make) -> None:
    network, problem = make([4, 2, 3, 4])
    fisher = fisher_matrix(network, problem)
    damped = fisher + 0.3 * torch.eye(len(fisher), dtype=torch.float64)
    expected = -torch.linalg.solve(damped, flatten(problem.gradients(network)))
    torch.testing.assert_close(flatten(minimum_norm_step(network, problem, damping=0.3)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", [paper_step, any_width_step, minimum_norm_step])
def test_the_scale_of_the_noise_changes_no_natural_gradient(make: Make, form) -> None:  # type: ignore[no-untyped-def]
    network, problem = make([4, 3, 4])
    louder = LinearProblem(problem.input_cov, problem.teacher, 1e6 * problem.noise_cov)
    torch.testing.assert_close(form(network, louder), form(network, problem), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", [paper_step, any_width_step, minimum_norm_step])
def test_steps_follow_the_dtype_of_the_weights(make: Make, form) -> None:  # type: ignore[no-untyped-def]
    network, problem = make([3, 4, 3])
    single = DeepLinearNetwork(tuple(w.float() for w in network.weights))
    narrow = LinearProblem(problem.input_cov.float(), problem.teacher.float(), problem.noise_cov.float())
    step = form(single, narrow)
    assert all(s.dtype == torch.float32 for s in step)
    assert natural_gradient_residual(single, narrow, step) < 1e-4  # float32 rounding times conditioning


def test_a_deep_ill_conditioned_square_net_is_still_solved(make: Make) -> None:
    network, problem = make(LONG)
    # The products of six random 20 × 20 layers have condition numbers near 1e8, times eps 1e-16.
    assert natural_gradient_residual(network, problem, any_width_step(network, problem)) < 1e-7
    assert natural_gradient_residual(network, problem, paper_step(network, problem)) < 1e-7


def test_minimum_norm_form_refuses_too_many_unknowns(make: Make) -> None:
    network, problem = make([60, 2, 60])
    with pytest.raises(UserError, match=r"60 × 60 = 3600 unknowns.*any-width"):
        minimum_norm_step(network, problem)

from __future__ import annotations

import pytest
import torch

from ong.errors import UnknownNameError, UserError
from ong.natural.deep_linear import NETS, LinearData, dims_of, input_covariance, make_data, make_problem


def test_the_authors_architectures() -> None:
    assert len(NETS["net1"]) == 17  # 16 layers
    assert set(NETS["net1"]) == {20}
    assert len(NETS["net2"]) == 17
    assert (NETS["net2"][0], max(NETS["net2"]), NETS["net2"][-1]) == (20, 100, 20)
    assert (NETS["net3"][0], min(NETS["net3"]), NETS["net3"][-1]) == (200, 2, 200)


def test_input_eigenvalues_decay_exponentially_to_a_floor_and_sum_to_n() -> None:
    n = 20
    values = torch.linalg.eigvalsh(input_covariance(n, generator=torch.Generator().manual_seed(0))).flip(0)
    index = torch.arange(n, dtype=torch.float64)
    shape = 1e-3 + torch.exp(-index / 4)
    # Rounding of an orthogonal change of basis.
    torch.testing.assert_close(values / values[0], shape / shape[0], rtol=0, atol=1e-13)
    assert float(values.sum()) == pytest.approx(n, rel=1e-13)


def test_a_generator_decides_the_problem_and_the_data() -> None:
    targets = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        problem = make_problem([4, 3, 2], generator=generator)
        targets.append(make_data(problem, generator=generator, train=7, test=3).test_targets)
    assert torch.equal(targets[0], targets[1])
    assert targets[0].shape == (3, 2)


def test_teacher_of_a_bottleneck_setting_has_its_rank() -> None:
    problem = make_problem("net3", generator=torch.Generator().manual_seed(0))
    assert int(torch.linalg.matrix_rank(problem.teacher)) == 2


def test_names_and_numbers_that_make_no_setting_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'net"):
        dims_of("net4")
    with pytest.raises(UserError, match="no layer"):
        make_problem([3])
    with pytest.raises(UserError, match="noise must be positive"):
        make_problem([3, 3], noise=0.0)
    with pytest.raises(UserError, match=r"test inputs and targets.*\(2, 3\) and \(1, 3\)"):
        LinearData(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(UserError, match="differ in their number"):
        LinearData(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3))

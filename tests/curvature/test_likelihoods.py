"""Which likelihood a loss or a task's targets mean."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature import check_likelihood, likelihood_of, likelihood_of_targets
from ong.errors import UnknownNameError, UserError


class Smoothed(nn.CrossEntropyLoss):
    """A subclass of one's own."""


KNOWN: list[tuple[Any, str]] = [
    (nn.CrossEntropyLoss(label_smoothing=0.1), "categorical"),
    (Smoothed(), "categorical"),
    (nn.NLLLoss(), "categorical"),
    (F.cross_entropy, "categorical"),
    (F.nll_loss, "categorical"),
    (nn.BCEWithLogitsLoss(), "bernoulli"),
    (nn.MultiLabelSoftMarginLoss(), "bernoulli"),
    (F.binary_cross_entropy_with_logits, "bernoulli"),
    (nn.MSELoss(), "gaussian"),
    (F.mse_loss, "gaussian"),
]


@pytest.mark.parametrize(("criterion", "name"), KNOWN)
def test_a_loss_is_the_negative_logarithm_of_its_likelihood(criterion: Any, name: str) -> None:
    assert likelihood_of(criterion) == name


@pytest.mark.parametrize(
    ("criterion", "what"),
    [(nn.L1Loss(), "L1Loss"), (F.l1_loss, "l1_loss"), (partial(F.cross_entropy, reduction="sum"), "partial"), (None, "NoneType")],
)  # fmt: skip
def test_any_other_loss_is_refused_with_what_to_pass(criterion: Any, what: str) -> None:
    with pytest.raises(UserError, match=f"{what} does not say which likelihood .* pass likelihood='categorical'"):
        likelihood_of(criterion)


def test_class_numbers_for_two_outputs_or_more_mean_categorical() -> None:
    assert likelihood_of_targets(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])) == "categorical"


@pytest.mark.parametrize(
    ("outputs", "targets", "what"),
    [
        (1, torch.tensor([0, 1]), r"1 output\(s\) with targets of torch.int64 and shape \[2\]"),
        (3, torch.zeros(2, 3), r"3 output\(s\) with targets of torch.float32 and shape \[2, 3\]"),
        (3, torch.zeros(2, 3).long(), r"3 output\(s\) with targets of torch.int64 and shape \[2, 3\]"),
        (3, None, r"3 output\(s\) with no targets"),
    ],
)
def test_targets_that_several_likelihoods_have_are_refused(outputs: int, targets: Tensor | None, what: str) -> None:
    with pytest.raises(UserError, match=f"{what} do not say which likelihood is meant; pass criterion="):
        likelihood_of_targets(torch.zeros(2, outputs), targets)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert check_likelihood("bernoulli") == "bernoulli"
    with pytest.raises(UnknownNameError, match="unknown likelihood 'bernouli'; did you mean 'bernoulli'"):
        check_likelihood("bernouli")

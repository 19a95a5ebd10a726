"""Batches of every shape people use: their targets, their examples, and the logits of a model on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ong.curvature import batch_size, checked_logits, logits_of, map_batch, select, targets_of
from ong.errors import UserError

X, Y = torch.arange(12.0).reshape(4, 3), torch.tensor([2, 0, 1, 1])
NESTED = {"inputs": [X, {"mask": X > 4}], "labels": Y, "name": "train"}


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((X, Y), Y),
        ([X, Y.to(torch.uint8), torch.zeros(4)], Y),
        ((X, Y.int()[:, None]), Y),
        ((X, X), X),
        ((X, torch.stack([Y, Y], 1)), torch.stack([Y, Y], 1)),
        ({"input_ids": X, "labels": Y.short()}, Y),
        ({"input_ids": X, "label": Y}, Y),
    ],
)
def test_targets_are_the_second_or_named_labels_and_integers_are_class_numbers(batch: Any, expected: Tensor) -> None:
    found = targets_of(batch)
    assert found is not None
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("batch", [X, (X,), {"input_ids": X}, (X, ["a", "b", "c", "d"])])
def test_batches_without_tensors_as_targets_have_none(batch: Any) -> None:
    assert targets_of(batch) is None


def test_examples_are_selected_in_every_tensor_and_what_is_no_tensor_stays() -> None:
    for index in (slice(1, 3), torch.tensor([1, 2])):
        found = select(NESTED, index)
        assert torch.equal(found["inputs"][0], X[1:3])
        assert torch.equal(found["inputs"][1]["mask"], X[1:3] > 4)
        assert torch.equal(found["labels"], Y[1:3])
        assert found["name"] == "train"
        assert batch_size(found) == 2
    assert map_batch(lambda t: t.shape, (X, Y)) == [(4, 3), (4,)]
    with pytest.raises(UserError, match="a batch of type list holds no tensor"):
        batch_size(["a"])


class Named(nn.Module):
    """Takes keywords and answers with an object that has logits, as models of transformers do."""

    def forward(self, *, input_ids: Tensor, mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=input_ids * mask)


def test_models_are_run_on_the_inputs_alone() -> None:
    double = nn.Module()
    double.forward = lambda x: 2 * x
    assert torch.equal(logits_of(double, (X, Y)), 2 * X)
    assert torch.equal(logits_of(double, X), 2 * X)
    assert torch.equal(logits_of(Named(), {"input_ids": X, "mask": X, "labels": Y}), X * X)
    assert torch.equal(checked_logits(Y.float(), X), Y.float()[:, None])


@pytest.mark.parametrize(
    ("outputs", "what"),
    [(X[:3], r"outputs of shape \[3, 3\] for 4 examples"), (X[None], r"outputs of shape \[1, 4, 3\]"), ((X, X), "a tuple")],
)  # fmt: skip
def test_outputs_that_are_not_examples_by_outputs_are_refused_with_what_to_pass(outputs: Any, what: str) -> None:
    with pytest.raises(UserError, match=f"the model returns {what}.*; pass logits=FUNCTION, from a batch to these"):
        checked_logits(outputs, (X, Y))

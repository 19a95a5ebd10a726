"""Options of a recipe are checked by name and type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from torch import Tensor

from ong.errors import UserError
from ong.experiments.options import check_options

if TYPE_CHECKING:
    from nowhere import Unknown


def takes(
    whole: int = 1,
    number: float = 1.0,
    rate: float | Tensor = 1.0,
    pair: tuple[float, float] = (0.0, 1.0),
    widths: Sequence[int] = (),
    kind: Literal["a", "b"] = "a",
    flag: bool | None = None,
    tensor: Tensor | None = None,
    unknown: Unknown | int = 0,
    free: Any = None,
    bare=None,  # type: ignore[no-untyped-def]
) -> None:
    """A function with annotations of many kinds."""


RIGHT: dict[str, Sequence[Any]] = {
    "whole": [3],
    "number": [3, 0.5, float("inf"), float("nan")],
    "rate": [3, 0.5],
    "pair": [[0.9, 1]],
    "widths": [[], [3, 4]],
    "kind": ["b"],
    "flag": [True],
    "unknown": ["anything"],  # cannot be evaluated
    "free": ["anything"],
    "bare": ["anything"],
}
WRONG: dict[str, Sequence[Any]] = {
    "whole": [2.5, "3", True],
    "number": ["0,1", True],
    "rate": ["0,1"],
    "pair": [[0.9], 0.9, ["a", "b"]],
    "widths": [3, [2.5], "34"],
    "kind": ["c"],
    "flag": ["yes", 1],
}
every = [(name, value) for name, values in RIGHT.items() for value in values]
none = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), every)
def test_values_of_the_annotated_type_pass(name: str, value: Any) -> None:
    check_options(takes, {name: value}, "it")


@pytest.mark.parametrize(("name", "value"), none)
def test_other_values_are_named(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^it: '{name}': .*, got "):
        check_options(takes, {name: value}, "it")


@pytest.mark.parametrize(("function", "known"), [(takes, None), (takes, ["whole"])])
def test_unknown_names_are_told_the_nearest(function: Callable[..., Any], known: list[str] | None) -> None:
    with pytest.raises(UserError, match="unknown option of it 'whol'; did you mean 'whole'?"):
        check_options(function, {"whol": 1}, "it", known)


def test_a_class_is_read_where_it_is_defined() -> None:
    class Own(torch.optim.SGD):
        """Its constructor is torch's, with torch's names in its annotations."""

    check_options(Own, {"lr": 0.1, "nesterov": True}, "it")
    with pytest.raises(UserError, match="'momentum': Input should be a valid number"):
        check_options(Own, {"momentum": "much"}, "it")

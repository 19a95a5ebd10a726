from __future__ import annotations

import pytest

from ong.errors import UnknownNameError, UserError
from ong.natural.deep_linear import NETS, exactness


@pytest.mark.parametrize(
    ("dims", "exact"), [((3, 3), True), (NETS["net1"], True), (NETS["net2"], True), (NETS["net3"], False)]
)
def test_papers_form_is_exact_for_the_wide_settings_only(dims: tuple[int, ...], exact: bool) -> None:
    assert exactness("paper", dims).exact is exact


def test_the_reason_names_the_narrow_layer_and_the_remedy() -> None:
    reason = exactness("paper", NETS["net3"]).reason
    assert "hidden layer 6 has 2 units" in reason
    assert "= 200" in reason
    assert "any-width form is exact" in reason


def test_rank_of_the_inputs_counts_not_their_number() -> None:
    assert not exactness("paper", [6, 3, 2]).exact
    assert exactness("paper", [6, 3, 2], input_rank=3).exact


@pytest.mark.parametrize("form", ["minimum-norm", "any-width"])
def test_the_other_forms_are_exact_for_every_width(form: str) -> None:
    assert exactness(form, NETS["net3"]).exact


def test_too_many_unknowns_for_the_minimum_norm_form_are_said() -> None:
    assert "40000 unknowns are too many" in exactness("minimum-norm", NETS["net3"]).reason


def test_wrong_names_and_ranks_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        exactness("papers", [3, 3])
    with pytest.raises(UserError, match="cannot have rank 4"):
        exactness("paper", [3, 3], input_rank=4)
    with pytest.raises(UserError, match="no layer"):
        exactness("paper", [3])

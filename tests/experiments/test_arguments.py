"""What a user types as an option's value."""

from __future__ import annotations

import pytest

from ong.errors import UserError
from ong.experiments.arguments import parse_seeds, parse_settings, seeds_of

RIGHT = {
    "5": [0, 1, 2, 3, 4],
    "0-4": [0, 1, 2, 3, 4],
    "3,7": [3, 7],
    "3,": [3],
    "3-3": [3],
    "0-2, 7": [0, 1, 2, 7],
    " 2 ": [0, 1],
    "4294967295,": [2**32 - 1],
}
WRONG = {
    "0": "the count must be from 1 to 1000; one seed alone is --seed 0",
    "1001": "the count must be from 1 to 1000",
    "4-0": "a range, such as 0-4",
    "-3": "give a count, such as 5, a range, such as 0-4, or a list, such as 3,7",
    "1,-3": "of seeds from 0 to 4294967295",
    "4294967296,": "of seeds from 0 to 4294967295",
    "0-99999": "these are more than 1000",
    "0-999,1000-1999,5000": "these are more than 1000",
    "1,1": "seeds must be different",
    "0-3,2": "seeds must be different",
    ",": "one at least",
    "": "one at least",
    "two": "--seeds 'two'",
    "²": "--seeds '²'",
    "1_0": "--seeds '1_0'",
    "9" * 5000: "of seeds from 0 to",
}


@pytest.mark.parametrize("text", RIGHT)
def test_counts_ranges_and_lists_of_seeds(text: str) -> None:
    assert parse_seeds(text) == RIGHT[text]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_seed_is_told(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_seeds(text)
    assert WRONG[text] in str(caught.value)


def test_one_seed_alone() -> None:
    assert seeds_of(None, 3, [0]) == [3]
    assert seeds_of("2", None, [0]) == [0, 1]
    assert seeds_of(None, None, [1000]) == [1000]
    with pytest.raises(UserError, match="--seeds 2 and --seed 3: give one of them"):
        seeds_of("2", 3, [0])
    with pytest.raises(UserError, match="--seed -1"):
        seeds_of(None, -1, [0])


def test_settings_are_toml_or_text() -> None:
    found = parse_settings(["a=1", "b = 0.5", "c=[1, 2]", "d=cpu", "e=" + "1" * 5000, "f=" + "[" * 5000, "g==", "h="])
    assert [type(value) for value in found.values()] == [int, float, list, str, str, str, str, str]
    for wrong in ("a", "=3", " =3"):
        with pytest.raises(UserError, match="is not of the form key=value"):
            parse_settings([wrong])

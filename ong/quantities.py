"""What tables and pages must know of a quantity that a metric computes or a diagnostic measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ong.errors import UserError

__all__ = ["Quantity"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a run, or one of each of its tasks, and how it is shown.

    Attributes:
        title: its heading.
        about: what it is, in a few words.
        formula: how it is computed, on one line.
        better: whether more or less of it is better, between strategies that compete; None where they do not.
        form: how a number is written, as Python's ``format`` takes it.
        over: what a run has of a quantity kept by task: the mean, the last or the largest over tasks.
    """

    title: str
    about: str = ""
    formula: str = ""
    better: Literal["higher", "lower"] | None = None
    form: str = ".3f"
    over: Literal["mean", "last", "max"] = "mean"

    def __post_init__(self) -> None:
        """Check the form.

        Raises:
            UserError: ``format`` does not take it.
        """
        try:
            format(0.5, self.form)
        except ValueError as error:
            raise UserError(
                f"{self.title}: form = '{self.form}' writes no number ({error}); give one such as '.3f'"
            ) from None

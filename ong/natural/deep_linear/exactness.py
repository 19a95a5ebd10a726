"""Whether a closed form of the natural gradient is exact for a network's widths, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ong.errors import UnknownNameError, UserError
from ong.natural.deep_linear.network import check_dims
from ong.natural.deep_linear.steps import MINIMUM_NORM_LIMIT

__all__ = ["FORMS", "Exactness", "exactness"]

FORMS = ("paper", "minimum-norm", "any-width")


@dataclass(frozen=True)
class Exactness:
    """Whether a form solves F v = −∇ exactly for generic weights, with the reason in words."""

    exact: bool
    reason: str


def exactness(form: str, dims: Sequence[int], *, input_rank: int | None = None) -> Exactness:
    """Say whether an undamped form is exact for these widths.

    The paper's form is exact iff every hidden width is at least max(rank C, n_L): only then do all layers
    reach every entry of W, so that each corrects the same share 1/L. The other two are exact for any widths.

    Args:
        form: ``paper``, ``minimum-norm`` or ``any-width``.
        dims: widths n_0, …, n_L.
        input_rank: rank of C; n_0 when not given.

    Raises:
        UnknownNameError: no such form.
        UserError: widths that describe no network, or a rank that is not between 0 and n_0.
    """
    if form not in FORMS:
        raise UnknownNameError("form", form, FORMS)
    widths = check_dims(dims)
    rank = widths[0] if input_rank is None else input_rank
    if not 0 <= rank <= widths[0]:
        raise UserError(f"an input covariance of {widths[0]} inputs cannot have rank {rank}")
    if form == "any-width":
        return Exactness(True, "the any-width form is exact for any widths, bottlenecks too")
    if form == "minimum-norm":
        unknowns = widths[0] * widths[-1]
        note = "" if unknowns <= MINIMUM_NORM_LIMIT else f", though {unknowns} unknowns are too many to solve for"
        return Exactness(True, f"the minimum-norm form is exact for any widths{note}")
    hidden = widths[1:-1]
    if not hidden:
        return Exactness(True, "one layer: the paper's form is least squares")
    needed = max(rank, widths[-1])
    narrow = min(hidden)
    ends = f"max(rank of the inputs {rank}, outputs {widths[-1]}) = {needed}"
    if narrow >= needed:
        return Exactness(True, f"every hidden layer has at least {ends} units")
    layer = hidden.index(narrow) + 1
    return Exactness(
        False,
        f"hidden layer {layer} has {narrow} units, fewer than {ends}; the any-width form is exact here",
    )

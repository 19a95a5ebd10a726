"""The running curvature of all layers: what is measured when, and inverted when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # torch does not list it

from ong.curvature.blocks import Block
from ong.curvature.factors import Factors
from ong.errors import UserError
from ong.natural.online.inverses import EigenInverse, KroneckerInverse
from ong.natural.online.moments import Moments, batch_moments
from ong.natural.online.settings import NonFiniteStepError, Settings

__all__ = ["OnlineCurvature"]


class OnlineCurvature:
    """Moments and inverses of a model's blocks, by name.

    Attributes:
        moments: running Λ and Λ̃.
        inverses: as of the last refresh; EKFAC's eigenvalues are newer than its bases.
    """

    def __init__(self, blocks: Mapping[str, Block], settings: Settings) -> None:
        """Start without any curvature."""
        self._blocks = blocks
        self._settings = settings
        self._expired = False
        self.moments: dict[str, Moments] = {}
        self.inverses: dict[str, KroneckerInverse | EigenInverse] = {}

    def wants(self, step: int) -> bool:
        """Whether factors are to be measured at this step."""
        return self._expired or self._settings.due(self._settings.factors_every, step)

    def expire(self) -> None:
        """Have the next step measure and refresh, whatever the intervals say."""
        self._expired = True

    def observe(self, factors: Mapping[str, Factors], step: int, damping: float) -> None:
        """Take in a batch's factors and refresh the inverses where due.

        Raises:
            NonFiniteStepError: moments that are not finite, or singular in spite of the damping.
        """
        try:
            self._observe(factors, step, damping)
        except LinAlgError as error:
            remedy = "lower lr, or raise the damping or its floor"
            raise NonFiniteStepError(f"the curvature cannot be inverted ({error})", step, remedy) from error

    def _observe(self, factors: Mapping[str, Factors], step: int, damping: float) -> None:
        measured = {name: batch_moments(part) for name, part in factors.items()}
        for name, batch in measured.items():  # before anything is moved
            if not all(moment.isfinite().all() for moment in batch):
                raise LinAlgError(f"the factors of layer '{name}' are not finite")
        settings = self._settings
        refresh = self._expired or settings.due(settings.refresh_every, step)
        self._expired = False
        for name, part in factors.items():
            if name not in self.moments:
                self.moments[name] = Moments.empty(*self._blocks[name].shape, part.inputs)
            moments = self.moments[name]
            moments.add(*measured[name], settings.average)
            if refresh or name not in self.inverses:
                self.inverses[name] = self._inverted(name, moments, damping)
            inverse = self.inverses[name]
            if isinstance(inverse, EigenInverse):
                inverse.observe(part, settings.average)

    def solve(self, name: str, gradient: Tensor, damping: float) -> Tensor:
        """Return a layer's preconditioned gradient."""
        return self.inverses[name].solve(gradient, damping)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and numbers only."""
        return {
            "expired": self._expired,
            "moments": {name: dict(vars(moments)) for name, moments in self.moments.items()},
            "inverses": {name: inverse.state_dict() for name, inverse in self.inverses.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a copy of what :meth:`state_dict` returned, on the model's device."""
        kind = EigenInverse if self._settings.ekfac else KroneckerInverse
        if any(("inputs_inverse" in values) == self._settings.ekfac for values in state["inverses"].values()):
            raise UserError(f"the state is of an optimizer with ekfac={not self._settings.ekfac}; make this one so")
        self._expired = bool(state["expired"])
        self.moments = {name: Moments(**self._copied(name, values)) for name, values in state["moments"].items()}
        self.inverses = {
            name: kind.from_state(self._copied(name, values)) for name, values in state["inverses"].items()
        }

    def _inverted(self, name: str, moments: Moments, damping: float) -> KroneckerInverse | EigenInverse:
        if not self._settings.ekfac:
            return KroneckerInverse.of(moments, damping, balanced=self._settings.balanced)
        before = self.inverses.get(name)
        return EigenInverse.of(moments, before if isinstance(before, EigenInverse) else None)

    def _copied(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        device = self._blocks[name].parameters[0].device
        return {
            key: value.detach().to(device, copy=True) if isinstance(value, torch.Tensor) else value
            for key, value in values.items()
        }

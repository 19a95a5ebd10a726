"""The online natural gradient as a torch optimizer: K-FAC over the depth, or EKFAC, with adaptive damping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ong.curvature.blocks import Vector, inner
from ong.curvature.tape import Tape, record
from ong.errors import UserError
from ong.natural.deep_linear.damping import LevenbergMarquardt, rounding_of
from ong.natural.online.curvature import OnlineCurvature
from ong.natural.online.likelihoods import Likelihood, likelihood_of
from ong.natural.online.objective import Closure, Objective, Pass
from ong.natural.online.settings import (
    DEFAULT_DAMPING,
    NonFiniteStepError,
    Settings,
    StepReport,
    check_rates,
)
from ong.natural.online.trust import TrustRegion
from ong.natural.online.updates import check_known, gradient_of, layers_of, move, restore, with_momentum

__all__ = ["NaturalGradient"]


class NaturalGradient(Optimizer):
    """Natural gradient descent on minibatches.

    ::

        optimizer = ong.NaturalGradient(model, likelihood="gaussian")
        for x, y in batches:
            loss = optimizer.step(lambda: (model(x), y))

    The optimizer computes loss, gradient and curvature from the outputs, so there is no ``backward`` and no
    ``zero_grad``. Per step and layer i of L, with inputs a (1 appended for the bias) and cotangents δ of the
    likelihood's Fisher,

        Λ_i = E[a aᵀ],  Λ̃_i = E[δ δᵀ],  ΔW_i = −(α/L) (Λ̃_i + √λ I)⁻¹ ∇_i (Λ_i + √λ I)⁻¹,

    and λ by Levenberg and Marquardt's rule on the same batch: with ρ the actual over the predicted change of
    its loss, λ × 3/2 if ρ < ¼, × 2/3 if ρ > ¾, never below a floor. The change is measured with the same draws
    of torch's generators (dropout's masks), and λ stays where the loss is too coarse to show what was predicted.
    The prediction is (1 − ᾱ/2) ∇·u for the update u, with ᾱ = α/(1 − momentum): F u = −ᾱ∇ where the division
    by L is exact. The defaults are the paper's setting, for batches of about 1000, in a trust region.

    The group's ``lr`` (α), ``momentum`` and ``damping`` (λ) may be changed in ``param_groups``; learning-rate
    schedulers work. Outputs of more than two dimensions count as [examples, everything else].

    Args:
        model: the network; layers of the types that :mod:`ong.curvature.layers` registers (Linear, Conv2d).
        likelihood: ``"gaussian"`` (½‖y − h‖²), ``"bernoulli"`` (outputs are logits), ``"categorical"``
            (likewise), or an object of :class:`Likelihood`'s kind.
        lr: α.
        momentum: μ; the update is u ← μu + ΔW/α, W ← W + αu.
        damping: a schedule, or a positive number that stays.
        depth: the divisor L; the number of layers by default. 1 is plain K-FAC, which needs lr ≈ 1/L.
        average: decay β of running averages of Λ and Λ̃ (and of EKFAC's eigenvalues) over batches; 0 uses
            each batch by itself. Bias-corrected.
        ekfac: divide by measured eigenvalues in the factors' eigenbases instead, E[(U_SᵀG U_A)²] + λ.
        balanced: share the damping between the factors by their sizes, Λ + π√λ and Λ̃ + √λ/π.
        factors_every: steps between measurements of the factors.
        refresh_every: steps between inversions (or eigenbases); a multiple of ``factors_every``.
        adapt_every: steps between adaptations of λ, one forward pass each.
        warmup: the first so many steps measure, invert and adapt every time, as curvature moves fastest then.
        trust: bound steps and take those back that raised their own batch's loss, as
            :class:`~ong.natural.online.trust.TrustRegion` tells; looked at when λ is adapted, so nothing is bounded
            where the damping stays. Losses must be ≥ 0. False is the published update.
        seed: of the cotangents' generator.

    Attributes:
        report: what the last step did; None before the first.

    Raises:
        UserError: a setting out of range, or a model without supported layers.

    Source: Bernacchia, Lengyel, Hennequin, NeurIPS 2018, section 4 and their code; Martens and Grosse, arXiv
    1503.05671 (π, momentum); George et al., arXiv 1806.03884 (EKFAC).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        likelihood: str | Likelihood = "gaussian",
        lr: float = 1.0,
        momentum: float = 0.0,
        damping: float | LevenbergMarquardt = DEFAULT_DAMPING,
        depth: int | None = None,
        average: float = 0.0,
        ekfac: bool = False,
        balanced: bool = False,
        factors_every: int = 1,
        refresh_every: int = 1,
        adapt_every: int = 1,
        warmup: int = 10,
        trust: bool = True,
        seed: int = 0,
    ) -> None:
        self._blocks = layers_of(model)
        self._objective = Objective(self._blocks, likelihood_of(likelihood))
        layers = len(self._blocks)
        self._settings = Settings(
            layers=layers,
            depth=layers if depth is None else depth,
            average=average,
            ekfac=ekfac,
            balanced=balanced,
            factors_every=factors_every,
            refresh_every=refresh_every,
            adapt_every=adapt_every,
            warmup=warmup,
        )
        level = check_rates(lr, momentum, damping)
        self._region = TrustRegion(damping, bounded=trust) if isinstance(damping, LevenbergMarquardt) else None
        if self._region is None or not trust:
            self._settings.warn_of_overshoot(lr, momentum)
        parameters = [p for block in self._blocks.values() for p in block.parameters]
        self._generator = torch.Generator(parameters[0].device).manual_seed(seed)
        self._curvature = OnlineCurvature(self._blocks, self._settings)
        self._tape: Tape | None = None
        self._steps = 0
        self.report: StepReport | None = None
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "damping": level})

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the forward pass inside the ``with``, for ``step(loss, outputs)`` after it."""
        with record(self._blocks) as tape:
            yield
        self._tape = tape

    @torch.no_grad()
    def step(self, closure: Closure | Tensor, outputs: Tensor | None = None) -> float:  # type: ignore[override]
        """Take one step and return the loss before it, the mean over the batch's examples.

        Either ``step(closure)``; or, with a damping that stays and a loss of one's own, ``with
        optimizer.recording(): outputs = model(x)`` and then ``step(loss, outputs)``, without ``backward``.

        Args:
            closure: returns (outputs, targets) of a batch; or a scalar loss, a mean over examples.
            outputs: with a loss, the model's outputs that it was computed from.

        Raises:
            UserError: targets outside the likelihood's support, or a loss without its recorded forward.
            NonFiniteStepError: NaN, infinity or a singular factor; the weights are unchanged.
        """
        run = self._recorded(closure, outputs) if isinstance(closure, Tensor) else self._objective.forward(closure)
        group, number = self.param_groups[0], self._steps
        loss = float(run.loss.detach())
        self._require(math.isfinite(loss), f"the loss is {loss}")
        region = self._region
        looking = region is not None and self._settings.due(self._settings.adapt_every, number)
        known = self._curvature.state_dict() if looking else {}  # by reference: nothing of it is changed in place
        if self._curvature.wants(number) or run.tape.names - self._curvature.inverses.keys():
            self._curvature.observe(self._objective.factors(run, self._generator), number, group["damping"])
        gradient = gradient_of(run.loss, self._blocks)
        check_known(gradient, self._curvature.inverses)
        direction = {
            name: self._curvature.solve(name, matrix, group["damping"]).div_(-self._settings.depth)
            for name, matrix in gradient.items()
        }
        slope = group["lr"] * float(inner(gradient, direction)) if direction else 0.0
        self._require(math.isfinite(slope), "the gradient or its preconditioned form is not finite")
        rate, share = self._settings.rate(group["lr"], group["momentum"]), 1.0
        if region is not None:
            share = region.share(-slope * rate / (1 - group["momentum"]) / 2, loss, rate)
            direction = {name: matrix.mul_(share) for name, matrix in direction.items()}
        kept = [p.clone() for p in group["params"]] if looking else []
        update = with_momentum(direction, self._blocks, self.state, group["momentum"])
        move(self._blocks, update, group["lr"])
        self.report = StepReport(number, loss, None, None, group["damping"], True)
        if region is not None and looking and update and not isinstance(closure, Tensor):
            predicted = (1 - share * rate / 2) * group["lr"] * float(inner(gradient, update))
            change = partial(self._objective.change, closure, run)
            again = partial(self._again, direction, kept, known)
            self.report, group["damping"] = region.settle(
                replace(self.report, predicted=predicted), rounding_of(loss, kept[0].dtype), change, again
            )
        self._steps += 1
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the model's own group, and no other.

        Raises:
            UserError: a further group.
        """
        if self.param_groups:
            raise UserError(
                "NaturalGradient trains the layers of the model it was given; make a new one for another model"
            )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return torch's part, and as ``"online"`` the curvature, the generator and the number of steps."""
        online = {
            "steps": self._steps,
            "radius": self._region.radius if self._region is not None else None,
            "generator": self._generator.get_state(),
            "curvature": self._curvature.state_dict(),
        }
        return super().state_dict() | {"online": online}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, to the bit; options stay as constructed."""
        online = state_dict["online"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "online"})
        self._steps = int(online["steps"])
        if self._region is not None:
            self._region.radius = float(online["radius"])
        self._generator.set_state(online["generator"].cpu())
        self._curvature.load_state_dict(online["curvature"])

    def _recorded(self, loss: Tensor, outputs: Tensor | None) -> Pass:
        tape, self._tape = self._tape, None
        if self._region is not None:
            raise UserError(
                "Levenberg-Marquardt damping measures the loss again after a step: pass step a closure that "
                "returns (outputs, targets), or set damping to a number"
            )
        return self._objective.recorded(tape, loss, outputs)

    def _again(self, direction: Vector, kept: list[Tensor], known: dict[str, Any], share: float) -> None:
        """Take a step anew at a share of its length and without momentum; 0 leaves it out, averages included."""
        group = self.param_groups[0]
        restore(group["params"], kept, self.state)
        if share:
            shorter = {name: share * matrix for name, matrix in direction.items()}
            move(self._blocks, with_momentum(shorter, self._blocks, self.state, group["momentum"]), group["lr"])
        else:
            self._curvature.load_state_dict(known)
        self._curvature.expire()

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise NonFiniteStepError(what, self._steps, "check the inputs for NaN, lower lr, or raise the damping")

"""Training a deep linear network on the expected loss or on minibatches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # torch does not list it

from ong.errors import UserError
from ong.natural.deep_linear.damping import LevenbergMarquardt, rounding_of
from ong.natural.deep_linear.exactness import exactness
from ong.natural.deep_linear.fisher import fisher_product, natural_gradient_residual
from ong.natural.deep_linear.history import DivergedError, EpochRecord, History
from ong.natural.deep_linear.network import DeepLinearNetwork
from ong.natural.deep_linear.problem import LinearProblem, batch_gradients
from ong.natural.deep_linear.settings import LinearData
from ong.natural.deep_linear.strategies import Strategy, strategy_of

__all__ = ["InexactFormWarning", "TrainingState", "train"]

Batch = tuple[Tensor, Tensor]


class InexactFormWarning(UserWarning):
    """The chosen form does not solve F v = −∇ for these widths; the message says why and by how much."""


@dataclass(frozen=True, eq=False)
class TrainingState:
    """All that training goes on from after an epoch, but for the generator that shuffles.

    Attributes:
        network: the weights.
        history: a record of every epoch so far.
        damping: λ of the next step.
        step: steps taken.
    """

    network: DeepLinearNetwork
    history: History
    damping: float
    step: int


def train(
    network: DeepLinearNetwork,
    problem: LinearProblem,
    strategy: str,
    *,
    alpha: float,
    epochs: int,
    data: LinearData | None = None,
    batch_size: int = 1000,
    damping: float | LevenbergMarquardt = 0.0,
    generator: torch.Generator | None = None,
    resume: TrainingState | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
) -> tuple[DeepLinearNetwork, History]:
    """Train a network: W_i ← W_i + α ΔW_i.

    Without ``data`` an epoch is one step on the expected loss. With it an epoch is a pass over the shuffled
    training examples; each minibatch is a linear problem of its own (:meth:`LinearProblem.from_batch`): Λ_i
    and ∇_i come from its inputs and targets, Λ̃_i is known exactly, not sampled. Steps see Σ scaled to unit
    mean noise, which leaves natural gradients as they are and gives ``damping`` the unit of the squared
    error, as in the authors' code.

    Args:
        network: the weights to start from; not changed.
        problem: C, W*, Σ: the expected loss to train on, or, with data, to report the excess loss by.
        strategy: ``sgd``, ``ngd-paper``, ``ngd-min-norm``, ``ngd-any-width`` or ``newton``.
        alpha: rate α, positive.
        epochs: how many.
        data: examples, for minibatch training.
        batch_size: examples a step, with data; a last incomplete batch is dropped.
        damping: λ, or a schedule that adapts it; 0 keeps the closed forms exact.
        generator: shuffles the examples; its device must be the data's.
        resume: where an earlier call with the same arguments had come to; the generator must be in that state too.
        on_epoch: called after every epoch with what to resume from.

    Returns:
        The trained network and its history.

    Raises:
        UnknownNameError: no such strategy.
        UserError: a rate, number of epochs, batch size or damping out of range, or shapes that do not fit.
        DivergedError: NaN or infinity, naming the step, with the history so far.

    Warns:
        InexactFormWarning: the strategy's form is not exact for these widths.
    """
    chosen = strategy_of(strategy)
    _check(alpha, epochs, damping, data, batch_size)
    problem.error(network)
    if data is not None and data.dims != problem.dims:
        raise UserError(f"data of {data.dims} inputs and outputs do not fit a problem of {problem.dims}")
    _warn_if_inexact(chosen, network, problem)
    unit = problem.with_unit_noise()
    level = damping.initial if isinstance(damping, LevenbergMarquardt) else float(damping)
    history = History(chosen.name, alpha, network.dims, problem.floor)
    step = 0
    if resume is None:
        history.epochs.append(_record(0, network, problem, data, damping=level))
    else:
        network, level, step = resume.network, resume.damping, resume.step
        history.epochs.extend(resume.history.epochs)
    for epoch in range(len(history.epochs), epochs + 1):
        batches: Iterator[Batch | None] = iter([None]) if data is None else _batches(data, batch_size, generator)
        before = history.epochs[-1].excess
        steps = 0
        for batch in batches:
            step, steps = step + 1, steps + 1
            try:
                posed = _posed(chosen, unit, batch)
                directions = _directions(chosen, network, posed, batch, level)
            except LinAlgError as error:  # LAPACK's answer to infinity
                raise DivergedError(str(error), step=step, epoch=epoch, history=history) from error
            previous, used = network, level
            network = network.moved(directions, alpha)
            if not (network.is_finite() and math.isfinite(problem.excess(network.product))):
                raise DivergedError("weights or loss not finite", step=step, epoch=epoch, history=history)
            if isinstance(damping, LevenbergMarquardt) and posed is not None:
                level = _next_damping(damping, level, previous, network, posed, directions, alpha)
        residual = None
        if chosen.form is not None and posed is not None:
            residual = natural_gradient_residual(previous, posed, directions)
        record = _record(epoch, network, problem, data, residual=residual, damping=used)
        history.epochs.append(_with_rate(record, before, steps))
        if on_epoch is not None:
            on_epoch(TrainingState(network, history, level, step))
    return network, history


def _posed(chosen: Strategy, unit: LinearProblem, batch: Batch | None) -> LinearProblem | None:
    """Return the problem the step is to solve; None for plain gradients of a batch, which need none."""
    if batch is None:
        return unit
    return None if chosen.name == "sgd" else LinearProblem.from_batch(*batch, unit.noise_cov)


def _directions(
    chosen: Strategy,
    network: DeepLinearNetwork,
    posed: LinearProblem | None,
    batch: Batch | None,
    level: float,
) -> list[Tensor]:
    if posed is not None:
        return chosen.step(network, posed, damping=level)
    assert batch is not None
    return [-gradient for gradient in batch_gradients(network, *batch)]


def _next_damping(
    schedule: LevenbergMarquardt,
    level: float,
    before: DeepLinearNetwork,
    after: DeepLinearNetwork,
    posed: LinearProblem,
    directions: list[Tensor],
    alpha: float,
) -> float:
    def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
        return sum(float((a * b).sum()) for a, b in zip(left, right, strict=True))

    slope = dot(posed.gradients(before), directions)
    curvature = dot(directions, fisher_product(before, posed, directions))
    excess = posed.likelihood_excess(before.product)
    actual = posed.likelihood_excess(after.product) - excess
    resolution = rounding_of(excess, posed.teacher.dtype)
    return schedule.updated(level, actual, alpha * slope + 0.5 * alpha**2 * curvature, resolution)


def _batches(data: LinearData, batch_size: int, generator: torch.Generator | None) -> Iterator[Batch]:
    inputs, targets = data.train_inputs, data.train_targets
    order = torch.randperm(len(inputs), generator=generator, device=inputs.device)
    for start in range(0, len(inputs) - batch_size + 1, batch_size):
        rows = order[start : start + batch_size]
        yield inputs[rows], targets[rows]


def _record(
    epoch: int,
    network: DeepLinearNetwork,
    problem: LinearProblem,
    data: LinearData | None,
    *,
    residual: float | None = None,
    damping: float = 0.0,
) -> EpochRecord:
    product = network.product
    excess = problem.excess(product)
    if data is None:
        train_loss = test_loss = excess + problem.floor
    else:
        train_loss = _sample_loss(product, data.train_inputs, data.train_targets)
        test_loss = _sample_loss(product, data.test_inputs, data.test_targets)
    return EpochRecord(epoch, train_loss, test_loss, excess, None, residual, damping)


def _with_rate(record: EpochRecord, before: float, steps: int) -> EpochRecord:
    rate = (record.excess / before) ** (1 / steps) if before > 0 and record.excess >= 0 else None
    return EpochRecord(
        record.epoch,
        record.train_loss,
        record.test_loss,
        record.excess,
        rate,
        record.residual,
        record.damping,
    )


def _sample_loss(product: Tensor, inputs: Tensor, targets: Tensor) -> float:
    return 0.5 * float((inputs @ product.T - targets).square().sum(dim=1).mean())


def _warn_if_inexact(chosen: Strategy, network: DeepLinearNetwork, problem: LinearProblem) -> None:
    if chosen.form is None:
        return
    verdict = exactness(chosen.form, network.dims, input_rank=problem.input_rank)
    if not verdict.exact:
        residual = natural_gradient_residual(network, problem, chosen.step(network, problem))
        warnings.warn(
            f"{chosen.name} is not the exact natural gradient: {verdict.reason} "
            f"(residual ‖Fv+∇‖/‖∇‖ = {residual:.2g} at the start)",
            InexactFormWarning,
            stacklevel=3,
        )


def _check(
    alpha: float,
    epochs: int,
    damping: float | LevenbergMarquardt,
    data: LinearData | None,
    batch_size: int,
) -> None:
    if not (math.isfinite(alpha) and alpha > 0):
        raise UserError(f"alpha must be a positive number; got {alpha}")
    if epochs < 1:
        raise UserError(f"epochs must be at least 1; got {epochs}")
    if not isinstance(damping, LevenbergMarquardt) and not (math.isfinite(damping) and damping >= 0):
        raise UserError(f"damping must be a number ≥ 0 or a LevenbergMarquardt schedule; got {damping}")
    if data is not None and not 1 <= batch_size <= len(data.train_inputs):
        raise UserError(
            f"batch_size must lie between 1 and {len(data.train_inputs)} training examples; got {batch_size}"
        )

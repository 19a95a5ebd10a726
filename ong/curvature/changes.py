"""How a network's outputs change from some weights to others: at first order, and what is left of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from ong.curvature.batches import Batch, batch_size, logits_of, select
from ong.curvature.blocks import Vector, evaluating, inner
from ong.curvature.metric import Metric

__all__ = ["Run", "Weights", "first_order_change", "gradients_at", "metric_change", "outputs_at", "remainder_bound"]

Weights = dict[str, Tensor]
"""Parameters and buffers by their names in the model; those that are absent are the model's own."""
Run = Callable[[nn.Module, Batch], Tensor]
"""Maps a model and a batch to the logits ``[N, C]``."""


class _Running(nn.Module):
    """A model that is called by a function."""

    def __init__(self, model: nn.Module, run: Run) -> None:
        super().__init__()
        self.model, self._run = model, run

    def forward(self, batch: Batch) -> Tensor:
        return self._run(self.model, batch)


def outputs_at(model: nn.Module, weights: Weights, batch: Batch, run: Run = logits_of) -> Tensor:
    """Return h(x), ``[N, C]``, of the model at other weights than it has, in the mode that it is in."""
    named = {f"model.{name}": tensor for name, tensor in weights.items()}
    outputs: Tensor = functional_call(_Running(model, run), named, (batch,))
    return outputs


def first_order_change(
    model: nn.Module, weights: Weights, displacement: Weights, batch: Batch, run: Run = logits_of
) -> Tensor:
    """Return JΔ, ``[N, C]``, with J = ∂h/∂θ at some weights, by forward-mode differentiation in eval mode.

    Args:
        model: the network.
        weights: where J is taken.
        displacement: Δ of parameters; of those that are absent it is 0.
        batch: N examples.
        run: from model and batch to the logits.

    Raises:
        NotImplementedError: the model has an operation without a forward-mode derivative.
    """
    with evaluating(model), torch.no_grad(), forward_ad.dual_level(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # torch's own use of it
        duals = {
            name: forward_ad.make_dual(tensor, displacement[name].to(tensor))  # type: ignore[no-untyped-call]
            if name in displacement
            else tensor
            for name, tensor in weights.items()
        }
        outputs = outputs_at(model, duals, batch, run)
        tangent: Tensor | None = forward_ad.unpack_dual(outputs).tangent  # type: ignore[no-untyped-call]
    return tangent if tangent is not None else torch.zeros_like(outputs)


def gradients_at(
    model: nn.Module, weights: Weights, batch: Batch, cotangents: Tensor, run: Run = logits_of
) -> Iterator[Weights]:
    """Yield ∇_θ uᵀh of each example at some weights, in eval mode, for the parameters among the weights.

    Args:
        model: the network.
        weights: where gradients are taken.
        batch: N examples.
        cotangents: u, ``[N, C]``.
        run: from model and batch to the logits.
    """
    names = [name for name, _ in model.named_parameters() if name in weights]
    with evaluating(model):
        for n in range(batch_size(batch)):
            leaves = {name: weights[name].detach().requires_grad_() for name in names}
            outputs = outputs_at(model, weights | leaves, select(batch, slice(n, n + 1)), run)
            found = torch.autograd.grad(
                (outputs * cotangents[n]).sum(), [leaves[name] for name in names], materialize_grads=True
            )
            yield dict(zip(names, found, strict=True))


def metric_change(metric: Metric, displacement: Vector) -> float:
    """Return λ‖Δ‖²_M − λ‖Δ‖² = ΔᵀFΔ; for F of type ``logit`` the mean ‖J(x)Δ‖² (docs/theory.md, Theorem 5)."""
    return float(inner(displacement, metric.curvature(displacement)))


def remainder_bound(values: Tensor) -> Tensor:
    """Return ½ max|q″| from values of q at equal distances on [0, 1].

    With q(τ) = f(θ + τΔ) it is at most ½H‖Δ‖², H the largest norm of f's Hessian on the segment, and where
    ∇f(θ)ᵀΔ = 0 it bounds |q(1) − q(0)| (docs/theory.md, Theorem 4). The largest second difference stands for the
    maximum, from which it differs the less the finer the points lie.

    Args:
        values: ``[points, …]``, three points or more.

    Returns:
        Of the shape of one point's values.
    """
    if len(values) < 3:
        raise ValueError(f"second differences take three points or more, got {len(values)}")
    second = values[2:] - 2 * values[1:-1] + values[:-2]
    return second.abs().amax(0) * (len(values) - 1) ** 2 / 2

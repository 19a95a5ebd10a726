"""A deep linear network: its end-to-end map, the partial products beside each layer, derivatives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ong.errors import UserError

__all__ = ["DeepLinearNetwork", "check_dims"]


def check_dims(dims: Sequence[int]) -> tuple[int, ...]:
    """Return the layer widths as a tuple.

    Args:
        dims: n_0 (inputs), the hidden widths, n_L (outputs).

    Raises:
        UserError: fewer than two widths, or one that is not a positive whole number.
    """
    given = list(dims)
    if len(given) < 2:
        raise UserError(
            f"dims {given} describe no layer; give at least the number of inputs and of outputs, as [20, 20]"
        )
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in given):
        raise UserError(f"dims {given} hold a width that is not a positive whole number")
    return tuple(given)


@dataclass(frozen=True, eq=False)
class DeepLinearNetwork:
    """The map W = W_L … W_1 with W_i ∈ R^{n_i × n_{i−1}}; no biases.

    A_i = W_{i−1} … W_1 (``input_products``, n_{i−1} × n_0) carries the input to layer i and
    B_i = W_L … W_{i+1} (``output_products``, n_L × n_i) carries its output to the end, so W = B_i W_i A_i.
    Source: Bernacchia, Lengyel, Hennequin, NeurIPS 2018, section 3.

    Args:
        weights: W_1, …, W_L, first layer first; one dtype and device, which every result follows.

    Raises:
        UserError: no weights, one that is not a matrix, or neighbours whose widths differ.
    """

    weights: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        weights = tuple(self.weights)
        object.__setattr__(self, "weights", weights)
        shapes = [tuple(w.shape) for w in weights]
        if not weights or any(len(shape) != 2 for shape in shapes):
            raise UserError(f"weights must be one matrix a layer, W_1 first; got shapes {shapes}")
        for layer, (below, above) in enumerate(itertools.pairwise(shapes), start=1):
            if above[1] != below[0]:
                raise UserError(
                    f"W_{layer} of shape {below} gives {below[0]} outputs but W_{layer + 1} of shape {above} "
                    f"takes {above[1]}"
                )

    @classmethod
    def random(
        cls,
        dims: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        gain: float = 1.0,
        dtype: torch.dtype = torch.float64,
    ) -> DeepLinearNetwork:
        """Draw weights from N(0, gain²/fan_in), as the authors' code does.

        Args:
            dims: widths n_0, …, n_L.
            generator: source of randomness; its device is the network's.
            gain: factor on the standard deviation 1/√fan_in.
            dtype: of the weights.
        """
        widths = check_dims(dims)
        device = generator.device if generator is not None else None
        return cls(
            tuple(
                torch.randn(out, inp, generator=generator, dtype=dtype, device=device) * (gain / math.sqrt(inp))
                for inp, out in itertools.pairwise(widths)
            )
        )

    @property
    def dims(self) -> tuple[int, ...]:
        """Widths n_0, …, n_L."""
        return (self.weights[0].shape[1], *(w.shape[0] for w in self.weights))

    @property
    def depth(self) -> int:
        """The number of layers, L."""
        return len(self.weights)

    @property
    def parameter_count(self) -> int:
        """The number of weights, Σ n_i n_{i−1}."""
        return sum(w.numel() for w in self.weights)

    @cached_property
    def input_products(self) -> tuple[Tensor, ...]:
        """A_1 = I, …, A_L, each n_{i−1} × n_0."""
        first = self.weights[0]
        products = [torch.eye(first.shape[1], dtype=first.dtype, device=first.device)]
        for w in self.weights[:-1]:
            products.append(w @ products[-1])
        return tuple(products)

    @cached_property
    def output_products(self) -> tuple[Tensor, ...]:
        """B_1, …, B_L = I, each n_L × n_i."""
        last = self.weights[-1]
        products = [torch.eye(last.shape[0], dtype=last.dtype, device=last.device)]
        for w in reversed(self.weights[1:]):
            products.append(products[-1] @ w)
        return tuple(reversed(products))

    @cached_property
    def product(self) -> Tensor:
        """The end-to-end map W, n_L × n_0."""
        return self.weights[-1] @ self.input_products[-1]

    def jvp(self, directions: Sequence[Tensor]) -> Tensor:
        """Return J v = Σ_i B_i V_i A_i, the first-order change of W (n_L × n_0) when W_i moves by V_i."""
        change = torch.zeros_like(self.product)
        for b, v, a in zip(self.output_products, directions, self.input_products, strict=True):
            change = change + b @ v @ a
        return change

    def vjp(self, cotangent: Tensor) -> list[Tensor]:
        """Return Jᵀ vec M as matrices B_iᵀ M A_iᵀ (n_i × n_{i−1}) for M of the shape of W."""
        return [b.T @ cotangent @ a.T for b, a in zip(self.output_products, self.input_products, strict=True)]

    def moved(self, directions: Sequence[Tensor], rate: float = 1.0) -> DeepLinearNetwork:
        """Return the network with weights W_i + rate · V_i."""
        return DeepLinearNetwork(tuple(w + rate * v for w, v in zip(self.weights, directions, strict=True)))

    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(torch.isfinite(w).all()) for w in self.weights)

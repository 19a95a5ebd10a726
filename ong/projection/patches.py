"""M stored gradients of one convolution, kept as its inputs and the cotangents of its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from ong.curvature import Block, Factors
from ong.projection.rows import DenseRows, FactoredRows, size

__all__ = ["Convolution", "PatchRows", "convolution_of", "input_shapes", "patch_rows"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution of inputs that are padded with zeros."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def outputs(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of ``[N, C, H, W]`` with weights ``[rows, C · kernel]``, ``[N, rows, H', W']``."""
        weight = weight.reshape(len(weight), inputs.shape[1], *self.kernel)
        with _in_full(inputs):
            return F.conv2d(inputs, weight, bias, self.stride, self.padding, self.dilation)

    def gradient(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the weights' gradient ``[rows, C · kernel]`` from cotangents ``[N, rows, H', W']``, summed over N."""
        shape = (outputs.shape[1], inputs.shape[1], *self.kernel)
        with _in_full(inputs):
            found: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
                inputs, shape, outputs, stride=self.stride, padding=self.padding, dilation=self.dilation
            )
        return found.flatten(1)

    def patches(self, inputs: Tensor) -> Tensor:
        """Return the inputs ``[N, C, H, W]`` as ``[N, C · kernel, T]``."""
        return F.unfold(inputs, self.kernel, self.dilation, self.padding, self.stride)

    def inputs(self, patches: Tensor, shape: torch.Size) -> Tensor:
        """Return inputs ``[N, C, H, W]`` with patches ``[N, T, C · kernel]``; 0 where no patch reaches."""
        numbers = torch.arange(1, shape.numel() + 1, dtype=torch.float64)  # on the CPU, as mps has none
        places = self.patches(numbers.reshape(1, *shape))[0].T.flatten().long().to(patches.device)  # 0 is padding
        flat = patches.new_zeros(len(patches), shape.numel() + 1)
        flat[:, places] = patches.flatten(1)
        return flat[:, 1:].reshape(-1, *shape)


def _in_full(inputs: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which cuDNN convolves in float32; by default it rounds to 11 bits (TF32), and Gᵀv with it."""
    cudnn = torch.backends.cudnn
    if inputs.device.type != "cuda":
        return nullcontext()
    return cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)


@dataclass(frozen=True)
class PatchRows:
    """G_m = Σ_t δ_mt a_mtᵀ, with a_mt the patches of an input: a number of the input is in up to ``kernel`` of them.

    Products are convolutions of M images: Gᵀv is a forward pass with v for weights, G c the weights' gradient.

    Attributes:
        inputs: of the convolution, ``[M, C, H, W]``.
        outputs: δ, ``[M, rows, H', W']``.
        convolution: what makes patches of inputs.
        bias: whether the last column is the bias, for which a = 1.
    """

    inputs: Tensor
    outputs: Tensor
    convolution: Convolution
    bias: bool

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def positions(self) -> int:
        """T."""
        return self.outputs[0, 0].numel() if len(self) else 0

    @property
    def shape(self) -> Pair:
        """``(rows, columns)`` of each gradient."""
        return self.outputs.shape[1], self._weights + self.bias

    @property
    def _taps(self) -> int:
        return self.convolution.kernel[0] * self.convolution.kernel[1]

    @property
    def _weights(self) -> int:
        return self.inputs.shape[1] * self._taps

    @property
    def bytes(self) -> int:
        """Memory held."""
        return size(self.inputs, self.outputs)

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.inputs

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩ = ⟨δ_m, V ∗ x_m⟩."""
        if matrix.ndim == 3:
            return torch.stack([self.dot(v) for v in matrix])
        bias = matrix[:, -1] if self.bias else None
        images = self.convolution.outputs(self.inputs, matrix[:, : self._weights], bias)
        return images.mul_(self.outputs).flatten(1).sum(1)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m."""
        scaled = self.outputs * coefficients.reshape(-1, 1, 1, 1)
        weight = self.convolution.gradient(self.inputs, scaled)
        return torch.cat([weight, scaled.sum((0, 2, 3))[:, None]], 1) if self.bias else weight

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the columns from ``start`` to ``stop`` of all gradients, ``[M, rows, stop − start]``."""
        first, last = start // self._taps, -(-min(stop, self._weights) // self._taps)
        outputs = self.outputs.flatten(2)
        parts = []
        if start < self._weights:
            patches = self.convolution.patches(self.inputs[:, first:last]).mT
            parts.append((outputs @ patches)[:, :, start - first * self._taps : stop - first * self._taps])
        if stop > self._weights:
            parts.append(outputs.sum(2, keepdim=True))
        return torch.cat(parts, 2)

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen gradients, ``[len(indices), rows, columns]``."""
        return self.select(indices).columns(0, self.shape[1])

    def select(self, indices: Tensor) -> PatchRows:
        """Return the chosen rows, of the same kind."""
        return PatchRows(self.inputs[indices], self.outputs[indices], self.convolution, self.bias)

    def left(self, matrix: Tensor) -> PatchRows:
        """Return R G_m for R ``[…, rows]``."""
        outputs = torch.einsum("sr,mrhw->mshw", matrix, self.outputs)
        return PatchRows(self.inputs, outputs, self.convolution, self.bias)

    def right(self, matrix: Tensor) -> FactoredRows:
        """Return G_m U for U ``[columns, …]``, in factors."""
        bias = matrix[-1] if self.bias else None
        images = self.convolution.outputs(self.inputs, matrix[: self._weights].T, bias)
        return FactoredRows(images.flatten(2).mT, self.outputs.flatten(2).mT)

    def grown(self, rows: int, columns: int) -> PatchRows | DenseRows:
        """Return the rows of a layer that has grown, zero on what is new; as matrices where it has new columns."""
        if columns == self.shape[1]:
            outputs = F.pad(self.outputs, (0, 0, 0, 0, 0, rows - self.shape[0]))
            return PatchRows(self.inputs, outputs, self.convolution, self.bias)
        return DenseRows(self.columns(0, self.shape[1])).grown(rows, columns)

    def joins(self, other: PatchRows) -> bool:
        """Return whether both are of inputs of one shape under one convolution."""
        return (self.convolution, self.bias) == (other.convolution, other.bias) and all(
            mine.shape[1:] == its.shape[1:]
            for mine, its in ((self.inputs, other.inputs), (self.outputs, other.outputs))
        )

    def joined(self, other: PatchRows) -> PatchRows:
        """Return these rows with others below."""
        inputs, outputs = torch.cat([self.inputs, other.inputs]), torch.cat([self.outputs, other.outputs])
        return PatchRows(inputs, outputs, self.convolution, self.bias)

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        geometry = {name: list(pair) for name, pair in asdict(self.convolution).items()}
        return {"kind": "patches", "inputs": self.inputs, "outputs": self.outputs, "bias": self.bias, **geometry}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> PatchRows:
        """Rebuild rows from their :meth:`state_dict`."""
        kernel, stride, padding, dilation = (
            (state[key][0], state[key][1]) for key in ("kernel", "stride", "padding", "dilation")
        )
        where = Convolution(kernel, stride, padding, dilation)
        return cls(state["inputs"], state["outputs"], where, state["bias"])


def convolution_of(block: Block) -> Convolution | None:
    """Return the geometry of a block's convolution; None for other layers, groups and paddings that are not zeros."""
    module = block.module
    if type(module) is not nn.Conv2d or block.weight is None or module.groups != 1 or module.padding_mode != "zeros":
        return None
    if isinstance(module.padding, str):
        return None
    kernel, stride, padding, dilation = (
        (pair[0], pair[1]) for pair in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    return Convolution(kernel, stride, padding, dilation)


@contextmanager
def input_shapes(blocks: Mapping[str, Block]) -> Iterator[dict[str, torch.Size]]:
    """Note ``[C, H, W]`` of what each convolution is called with inside the ``with``, the last time."""
    shapes: dict[str, torch.Size] = {}

    def noted(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            shapes[name] = (args[0] if args else next(iter(kwargs.values()))).shape[-3:]

        return hook

    handles = [
        block.module.register_forward_hook(noted(name), with_kwargs=True)
        for name, block in blocks.items()
        if block.module is not None and convolution_of(block) is not None
    ]
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()


def patch_rows(factors: Factors, block: Block, shape: torch.Size | None) -> PatchRows | None:
    """Return a convolution's gradients in inputs and cotangents, from inputs of a shape; None where that is no less.

    Less than the factors, which repeat inputs, and than the gradients themselves. A layer that is used twice in a
    forward pass has positions of two inputs, and stays in factors.
    """
    convolution = convolution_of(block)
    if convolution is None or shape is None:
        return None
    positions, rows, columns = factors.inputs.shape[1], factors.outputs.shape[2], factors.inputs.shape[2]
    reached = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(
            shape[1:], convolution.padding, convolution.dilation, convolution.kernel, convolution.stride, strict=True
        )
    ]
    numbers = shape.numel() + positions * rows
    if reached[0] * reached[1] != positions or numbers >= min(positions * (rows + columns), rows * columns):
        return None
    weights = shape[0] * convolution.kernel[0] * convolution.kernel[1]
    inputs = convolution.inputs(factors.inputs[:, :, :weights], shape)
    outputs = factors.outputs.mT.reshape(len(inputs), rows, *reached)
    return PatchRows(inputs, outputs, convolution, columns > weights)

"""Gradient Projection Memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ong.curvature import Vector, affine_blocks, affine_layers, input_covariances
from ong.errors import UserError
from ong.methods.base import Method
from ong.methods.data import Examples
from ong.methods.fishers import check_positive
from ong.methods.room import Needs, Shapes, widest_inputs
from ong.methods.statistics import BatchNorm

__all__ = ["GPM", "extended_basis"]

_ROUNDING = 1e-12  # a share of the inputs' energy that a float64 eigendecomposition cannot tell from none


def extended_basis(basis: Tensor, inputs_cov: Tensor, threshold: float) -> Tensor:
    """Return N with as few further orthonormal columns as hold a share ε of new inputs' energy.

    With A the new inputs' covariance, Â = (I−NNᵀ)A(I−NNᵀ) what N misses of it and σ_1 ≥ σ_2 … the eigenvalues of Â,
    the least k such that

        tr(NᵀAN) + σ_1 + … + σ_k ≥ ε tr A

    leading eigenvectors of Â are added: the left singular vectors of the inputs, which are not needed one by one.

    Args:
        basis: N, ``[columns, k]``.
        inputs_cov: A, ``[columns, columns]``, float64 both.
        threshold: ε.
    """
    rest = torch.eye(len(basis), dtype=basis.dtype, device=basis.device) - basis @ basis.T
    values, vectors = torch.linalg.eigh(rest @ inputs_cov @ rest)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    total = inputs_cov.trace()
    held = total - values.sum()
    missing = threshold * total - held - _ROUNDING * total
    before = torch.cat([values.new_zeros(1), values.cumsum(0)[:-1]])  # energy held before each further column
    added = vectors[:, : int((before < missing).sum())]
    if not added.shape[1]:
        return basis
    joined: Tensor = torch.linalg.qr(torch.cat([basis, added], 1)[:, : len(basis)]).Q
    return joined


class GPM(Method):
    """v_l = g_l (I − N_l N_lᵀ), N_l an orthonormal basis of what the layer's past inputs span, but for a share 1 − ε.

    Guarantees gᵀv = ‖v‖² ≥ 0. With ε = 1 the drawn examples' inputs lie in span N_l: then Gᵀv = 0 for them, and since
    (W − lr·v)a = Wa in every layer, first to last, all outputs of those examples stay exactly as they are, whatever
    the step's length. With ε < 1 a share 1 − ε of the inputs' energy is left free, and old outputs leak by that much.

    A bias is one more input that is always 1, so it is protected (or not) like the others; the paper's nets have none.
    A convolution's inputs are its unfolded patches at all positions. A step costs two thin products a layer.

    Source: Saha, Garg, Roy, "Gradient projection memory for continual learning", ICLR 2021, arXiv 2103.09762, §5:
    Eq. 5 the criterion of the first task, Eqs. 8 and 9 the residual and the criterion of later ones. The authors' code
    keeps one direction less than Eq. 5 asks for after the first task; here Eq. 5 holds.

    Attributes:
        bases: N of each layer, ``[columns, k]``.
    """

    keeps_outputs = True

    def __init__(
        self,
        *,
        threshold: float | Sequence[float] = 0.95,
        first_threshold: float | None = None,
        threshold_increment: float = 0.0,
        examples_per_task: int = 300,
        batch_norm: BatchNorm = "freeze",
        seed: int = 0,
    ) -> None:
        """Choose the share to be protected.

        Args:
            threshold: ε in (0, 1]; a list gives one a layer, input to output, its last for all layers after that.
            first_threshold: ε of the first layer, whose inputs are the data; None leaves it at ``threshold``.
            threshold_increment: what ε grows by with each finished task, up to 1.
            examples_per_task: training examples drawn from each finished task.
            batch_norm: ``"freeze"`` holds running statistics still after the first task, ``"update"`` does not.
            seed: which examples are drawn.

        Raises:
            UserError: a number out of range; more thresholds than the model has layers (when a task begins).
        """
        super().__init__(batch_norm=batch_norm, seed=seed)
        self.thresholds = [threshold] if isinstance(threshold, int | float) else list(threshold)
        if first_threshold is not None:
            self.thresholds = [first_threshold, *(self.thresholds[1:] or self.thresholds)]
        if not self.thresholds or not all(0 < value <= 1 for value in self.thresholds):
            raise UserError(f"thresholds must be numbers in (0, 1], got {self.thresholds}")
        if not threshold_increment >= 0:
            raise UserError(f"threshold_increment must not be negative, got {threshold_increment}")
        check_positive(examples_per_task=examples_per_task)
        self.threshold_increment, self.examples_per_task = threshold_increment, examples_per_task
        self.bases: dict[str, Tensor] = {}
        self._active: dict[str, Tensor] = {}

    def _begin(self, examples: Examples) -> None:
        affine_blocks(self.blocks, warn=True)
        layers = affine_layers(self.model)
        if len(self.thresholds) > len(layers):
            raise UserError(
                f"{len(self.thresholds)} thresholds were given for {len(layers)} layers: {', '.join(layers)}"
            )
        self._active = {}
        for name in self.bases.keys() & self.blocks.keys():  # frozen layers wait
            basis, values = self.bases[name], self.blocks[name].values()
            self._active[name] = F.pad(basis, (0, 0, 0, values.shape[1] - len(basis))).to(values)
        full = [name for name, basis in self._active.items() if basis.shape[1] == len(basis)]
        if full and self.keeps_outputs:
            warnings.warn(
                f"{type(self).__name__}: past inputs span all that layers {', '.join(full)} can be fed, so nothing is "
                "left to learn there; lower the threshold, or take wider layers",
                stacklevel=3,
            )

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        blocks = affine_blocks(self.blocks)
        widths = [block.shape[1] for block in blocks.values()]
        most = [min(width, self._seen(shapes, name)) for name, width in zip(blocks, widths, strict=True)]
        kept = shapes.size * sum(width * columns for width, columns in zip(widths, most, strict=True))
        sums, widest = 8 * sum(width**2 for width in widths), 8 * max(widths) ** 2
        seen = shapes.passing(self.examples_per_task)
        return Needs(kept, kept + shapes.steps, sums + 5 * widest + seen, widest_inputs(widths))

    def _seen(self, shapes: Shapes, name: str) -> int:
        """Return how many inputs of a layer all tasks will show."""
        return shapes.tasks * self.examples_per_task * shapes.positions[name]

    @property
    def is_idle(self) -> bool:
        """Whether no task is finished."""
        return not self._active

    def project(self, vector: Vector) -> Vector:
        """Return v_l (I − N_l N_lᵀ) of each layer; whatever is no layer stays."""
        bases = self._active
        return {n: part - (part @ bases[n]) @ bases[n].T if n in bases else part for n, part in vector.items()}

    def _end(self, examples: Examples) -> None:
        layers = affine_blocks(self.blocks)
        found = input_covariances(
            self.model, self._draw(examples, self.examples_per_task), layers, forward=self.forward
        )
        for place, name in enumerate(affine_layers(self.model)):  # frozen ones keep their places
            if name in found:
                threshold = self.thresholds[min(place, len(self.thresholds) - 1)]
                threshold = min(1.0, threshold + self.threshold_increment * self.tasks)
                self._keep(name, found[name], threshold)

    def _keep(self, name: str, inputs_cov: Tensor, threshold: float) -> None:
        """Extend the basis of a layer by what its inputs' covariance (float64) wants."""
        self.bases[name] = extended_basis(self._basis(name, inputs_cov), inputs_cov, threshold).to(
            self.blocks[name].values()
        )

    def _basis(self, name: str, like: Tensor) -> Tensor:
        """Return N of a layer so far, with as many rows as its inputs have now."""
        basis = self.bases.get(name, like.new_zeros(len(like), 0)).to(like)
        return F.pad(basis, (0, 0, 0, len(like) - len(basis)))

    def statistics(self) -> dict[str, float]:
        """Return numbers about the bases: ``rank`` vectors in all, and of the fullest layer's inputs the share left."""
        if not self.bases:
            return super().statistics()
        rank = sum(basis.shape[1] for basis in self.bases.values())
        left = min(1 - basis.shape[1] / len(basis) for basis in self.bases.values())
        return super().statistics() | {"rank": rank, "space_left": left}

    @property
    def memory_bytes(self) -> int:
        """Bytes of the bases."""
        return sum(t.numel() * t.element_size() for t in self.bases.values())

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"bases": dict(self.bases)}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.bases = dict(state["bases"])

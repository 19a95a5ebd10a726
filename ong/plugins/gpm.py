"""Gradient Projection Memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ong.curvature import Unsupported, Vector, affine_blocks, input_covariances
from ong.plugins.base import GradientPlugin
from ong.plugins.examples import draw_examples, forward_of

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


class GPM(GradientPlugin):
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
        bases: N of each layer, ``[columns, k]`` float64.
    """

    def __init__(
        self,
        *,
        threshold: float | Sequence[float] = 0.95,
        first_threshold: float | None = None,
        threshold_increment: float = 0.0,
        examples_per_task: int = 300,
        unsupported: Unsupported = "error",
        seed: int = 0,
    ) -> None:
        """Choose the share to be protected.

        Args:
            threshold: ε in (0, 1]; a list gives one a layer, input to output, its last for all layers after that.
            first_threshold: ε of the first layer, whose inputs are the data; None leaves it at ``threshold``.
            threshold_increment: what ε grows by with each finished task, up to 1.
            examples_per_task: training examples drawn from each finished task.
            unsupported: ``"error"``, or ``"ignore"`` for layers other than Linear, Conv1d and Conv2d.
            seed: which examples are drawn.

        Raises:
            ValueError: a number out of range; more thresholds than the model has layers (when training starts).
        """
        super().__init__(unsupported=unsupported, seed=seed)
        self.thresholds = [threshold] if isinstance(threshold, int | float) else list(threshold)
        if first_threshold is not None:
            self.thresholds = [first_threshold, *(self.thresholds[1:] or self.thresholds)]
        if not self.thresholds or not all(0 < value <= 1 for value in self.thresholds):
            raise ValueError(f"thresholds must be numbers in (0, 1], got {self.thresholds}")
        if threshold_increment < 0:
            raise ValueError(f"threshold_increment must not be negative, got {threshold_increment}")
        if examples_per_task < 1:
            raise ValueError(f"examples_per_task must be at least 1, got {examples_per_task}")
        self.threshold_increment, self.examples_per_task = threshold_increment, examples_per_task
        self.bases: dict[str, Tensor] = {}
        self._active: dict[str, Tensor] = {}

    def _prepare(self, strategy: Any) -> None:
        layers = affine_blocks(self._blocks, self.unsupported)
        if len(self.thresholds) > len(layers):
            raise ValueError(
                f"{len(self.thresholds)} thresholds were given for {len(layers)} layers: {', '.join(layers)}"
            )
        self._active = {}
        for name in self.bases.keys() & self._blocks.keys():  # frozen layers wait
            basis, values = self.bases[name], self._blocks[name].values()
            self._active[name] = F.pad(basis, (0, 0, 0, values.shape[1] - len(basis))).to(values)

    def _update(self, gradient: Vector, strategy: Any) -> Vector | None:
        return {name: gradient[name] - (gradient[name] @ basis) @ basis.T for name, basis in self._active.items()}

    def _consolidate(self, strategy: Any) -> None:
        layers = affine_blocks(self._blocks, self.unsupported)
        found = input_covariances(
            strategy.model,
            draw_examples(strategy, self.examples_per_task, self._generator),
            layers,
            forward=lambda batch: forward_of(strategy, batch),
        )
        for place, name in enumerate(layers):
            if name in found:
                columns = len(found[name])
                basis = self.bases.get(name, found[name].new_zeros(columns, 0))
                threshold = self.thresholds[min(place, len(self.thresholds) - 1)]
                threshold = min(1.0, threshold + self.threshold_increment * len(self.tasks_seen))
                basis = F.pad(basis, (0, 0, 0, columns - len(basis)))
                self.bases[name] = extended_basis(basis, found[name], threshold)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the bases."""
        return sum(t.numel() * t.element_size() for t in self.bases.values())

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task."""
        return super().state_dict() | {"bases": dict(self.bases)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.bases = dict(state["bases"])

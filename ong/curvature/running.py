"""The EKFAC of what is being trained on, out of training's own passes, with the leading eigenpairs only."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ong.curvature.blocks import Block, Vector
from ong.curvature.eigenblock import gradient_squares
from ong.curvature.eigenpairs import eigenpairs, leading_eigenpairs
from ong.curvature.factors import Factors
from ong.errors import NotFiniteError

__all__ = ["RunningEKFAC"]

_MOST_NUMBERS = 2**26  # of a window; past it the oldest batches go before their time
_CHUNK = 2**23  # numbers of one [examples, …] intermediate


@dataclass
class _Leading:
    """F of one block: Λ on the leading columns of the basis, one number on the rest.

    Attributes:
        inputs_basis: U, ``[columns, r]``.
        outputs_basis: U_S, ``[rows, rows]``.
        eigenvalues: Λ, ``[rows, r]``.
        rest: τ, the mean eigenvalue on the other columns; 0 where there are none.
    """

    inputs_basis: Tensor
    outputs_basis: Tensor
    eigenvalues: Tensor
    rest: float

    def squares(self, factors: Factors) -> Tensor:
        """Return the sum over examples of (U_Sᵀ G U)^{∘2}."""
        if factors.inputs.shape[1] == 1:
            a, d = factors.inputs[:, 0] @ self.inputs_basis, factors.outputs[:, 0] @ self.outputs_basis
            return d.square_().T @ a.square_()
        turned = Factors(factors.inputs @ self.inputs_basis, factors.outputs @ self.outputs_basis)
        return gradient_squares(turned).to(self.eigenvalues)

    def gain(self, damping: float) -> Tensor:
        """Return λ/(Λ+λ) − λ/(τ+λ)."""
        return (self.eigenvalues + damping).reciprocal_().mul_(damping).sub_(damping / (self.rest + damping))


class RunningEKFAC:
    """F of the last examples trained on, from the factors that training itself computes.

    With a ``window`` of the newest examples' inputs a and cotangents δ, :meth:`refresh` takes for each layer

        U = leading eigenvectors of A = mean aaᵀ,   U_S those of S = mean δδᵀ,   Λ = mean (U_Sᵀ G U)^{∘2},

    U by one subspace iteration from the U before. F is Λ there and τ, its mean eigenvalue, on all other columns:

        M⁻¹V = cV + U_S[ (s − c) ∘ (U_Sᵀ V U) ]Uᵀ,   s = λ/(Λ+λ),   c = λ/(τ+λ),

    which multiplies with r columns where the full basis takes all of them, twice. r is the smallest number for which
    the columns left out have T d_A d_S/λ ≤ ε/(1−ε), the Kronecker-factored estimate of what they add to the damped
    inverse relative to its norm; τ makes good for part of it. Between refreshes each :meth:`observe` moves Λ by the
    share its examples have in the window.

    In training the cotangents are of the true labels (the empirical Fisher), at the weights each batch met.

    Attributes:
        blocks: the model's blocks.
    """

    def __init__(
        self, blocks: Mapping[str, Block], *, damping: float, window: int = 1000, tolerance: float = 0.05
    ) -> None:
        """Start without data.

        Args:
            blocks: the model's blocks.
            damping: λ > 0.
            window: examples that count.
            tolerance: ε, between 0 and 1.

        Raises:
            ValueError: a number out of range.
        """
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping}")
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
        self.blocks, self.damping, self.window, self.tolerance = dict(blocks), damping, window, tolerance
        self._leading: dict[str, _Leading] = {}
        self._gains: dict[str, Tensor] = {}
        self._recent: deque[dict[str, Factors]] = deque()
        self._count = self._numbers = 0  # examples in it, and numbers

    @property
    def ranks(self) -> dict[str, int]:
        """The columns kept of each block's basis."""
        return {name: leading.inputs_basis.shape[1] for name, leading in self._leading.items()}

    def observe(self, factors: dict[str, Factors]) -> None:
        """Take in a batch: the window moves on, and so do the eigenvalues in the present bases."""
        self._recent.append(factors)
        self._count += _examples(factors)
        self._numbers += _numbers(factors)
        while self._count - _examples(self._recent[0]) >= self.window or (
            self._numbers > _MOST_NUMBERS and len(self._recent) > 1
        ):
            oldest = self._recent.popleft()
            self._count -= _examples(oldest)
            self._numbers -= _numbers(oldest)
        for name, part in factors.items():
            if name in self._leading:
                leading, share = self._leading[name], min(1.0, len(part.inputs) / min(self.window, self._count))
                leading.eigenvalues.mul_(1 - share).add_(leading.squares(part), alpha=share / len(part.inputs))
                self._gains[name] = leading.gain(self.damping)

    def refresh(self) -> None:
        """Take bases and eigenvalues anew from the window.

        Raises:
            ValueError: an empty window.
            NotFiniteError: factors that are not finite.
        """
        if not self._recent:
            raise ValueError("a running EKFAC needs at least one observed batch")
        for name in {name: None for batch in self._recent for name in batch}:
            parts = [batch[name] for batch in self._recent if name in batch]
            factors = Factors(_joined([p.inputs for p in parts]), _joined([p.outputs for p in parts]))
            self._leading[name] = self._fitted(factors, self._leading.get(name))
            self._gains[name] = self._leading[name].gain(self.damping)

    def _fitted(self, factors: Factors, old: _Leading | None) -> _Leading:
        a, d = factors.inputs.flatten(0, 1), factors.outputs.flatten(0, 1)
        outputs = (d.T @ d).double()
        if not (a.sum().isfinite() and outputs.isfinite().all()):
            raise NotFiniteError("the factors of a layer are not finite: the weights or the inputs have diverged")
        positions = factors.inputs.shape[1]
        values, outputs_basis = eigenpairs(outputs / len(d))
        largest = positions * float(values[-1])
        threshold = self.damping * self.tolerance / (1 - self.tolerance) / max(largest, 1e-30)
        start = old.inputs_basis if old is not None and len(old.inputs_basis) == a.shape[1] else None
        _, basis = leading_eigenpairs(a, threshold, start)
        fitted = _Leading(basis, outputs_basis.to(d), d.new_zeros(()), 0.0)
        fitted.eigenvalues = fitted.squares(factors) / len(factors.inputs)
        others = d.shape[1] * (a.shape[1] - basis.shape[1])
        if others:
            left = float(_squared_norms(factors).mean() - fitted.eigenvalues.sum())
            fitted.rest = max(left, 0.0) / others
        return fitted

    def precondition(self, vector: Mapping[str, Tensor], held: Collection[str] = ()) -> Vector:
        """Return M⁻¹v, for v over all blocks or some of them; a block without data has M = I.

        Args:
            vector: v, in the original coordinates.
            held: nothing; blocks are never held in these bases.
        """
        assert not held
        result: Vector = {}
        for name, part in vector.items():
            if name not in self._leading:
                result[name] = part
                continue
            leading = self._leading[name]
            turned = leading.outputs_basis.T @ (part @ leading.inputs_basis)
            change, rest = self._change(name, turned)
            result[name] = torch.addmm(part, change, leading.inputs_basis.T, beta=rest)
        return result

    def precondition_in_place(self) -> None:
        """Replace the ``.grad`` fields by M⁻¹g."""
        for name, block in self.blocks.items():
            if name not in self._leading or not block.has_gradient:
                continue
            leading = self._leading[name]
            basis = leading.inputs_basis.split(block.widths)  # type: ignore[no-untyped-call]
            parts = [(p.grad, u) for p, u in zip(block.parameters, basis, strict=True) if p.grad is not None]
            if any(gradient.dtype != u.dtype for gradient, u in parts):
                block.write_gradient(self.precondition({name: block.gradient()})[name])
                continue
            along = torch.stack([gradient.reshape(block.rows, -1) @ u for gradient, u in parts]).sum(0)
            change, rest = self._change(name, leading.outputs_basis.T @ along)
            for gradient, u in parts:
                matrix = gradient.reshape(block.rows, -1).addmm_(change, u.T, beta=rest)
                if not gradient.is_contiguous():
                    gradient.copy_(matrix.reshape(gradient.shape))

    def _change(self, name: str, turned: Tensor) -> tuple[Tensor, float]:
        """Return U_S[(s − c) ∘ U_SᵀVU], which Uᵀ is yet to be multiplied to, and c."""
        leading = self._leading[name]
        return leading.outputs_basis @ turned.mul_(self._gains[name]), self.damping / (leading.rest + self.damping)

    def state_dict(self) -> dict[str, Any]:
        """Return the window, bases and eigenvalues."""
        return {
            "leading": {
                n: {f.name: getattr(x, f.name) for f in fields(_Leading)} | {"eigenvalues": x.eigenvalues.clone()}
                for n, x in self._leading.items()
            },
            "recent": [{name: (f.inputs, f.outputs) for name, f in batch.items()} for batch in self._recent],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._leading = {n: _Leading(**x) for n, x in state["leading"].items()}
        for leading in self._leading.values():
            leading.eigenvalues = leading.eigenvalues.clone()  # they go on in place
        self._recent = deque({name: Factors(*f) for name, f in batch.items()} for batch in state["recent"])
        self._count, self._numbers = sum(map(_examples, self._recent)), sum(map(_numbers, self._recent))
        self._gains = {name: leading.gain(self.damping) for name, leading in self._leading.items()}


def _examples(batch: Mapping[str, Factors]) -> int:
    return max((len(part.inputs) for part in batch.values()), default=0)


def _numbers(batch: Mapping[str, Factors]) -> int:
    return sum(part.inputs.numel() + part.outputs.numel() for part in batch.values())


def _joined(parts: list[Tensor]) -> Tensor:
    """Put ``[n, T, …]`` below each other, with positions of zeros where batches have fewer than others."""
    most = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(p, (0, 0, 0, most - p.shape[1])) if p.shape[1] < most else p for p in parts])


def _squared_norms(factors: Factors) -> Tensor:
    """Return ‖G_n‖² for each example."""
    a, d = factors.inputs, factors.outputs
    if a.shape[1] == 1:
        return a[:, 0].square().sum(1) * d[:, 0].square().sum(1)
    positions, through_gram = a.shape[1], a.shape[1] ** 2 <= a.shape[2] * d.shape[2]
    step = max(1, _CHUNK // (positions**2 if through_gram else a.shape[2] * d.shape[2]))
    norms = []
    for left, right in zip(a.split(step), d.split(step), strict=True):  # type: ignore[no-untyped-call]
        if through_gram:
            norms.append(((left @ left.mT) * (right @ right.mT)).sum((1, 2)))
        else:
            norms.append((right.mT @ left).square().sum((1, 2)))
    return torch.cat(norms)

"""One block of an EKFAC: covariances, their eigenbases, and the eigenvalues measured in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from scipy.linalg import get_blas_funcs
from torch import Tensor

from ong.curvature.blocks import Block
from ong.curvature.eigenpairs import eigenbasis
from ong.curvature.factors import Factors
from ong.errors import NotFiniteError
from ong.threads import one_blas_thread

__all__ = ["Covariances", "EigenBlock", "covariances", "gradient_squares", "rotated_squares"]

_CHUNK = 2**25  # numbers of one [examples, rows, columns] intermediate


@dataclass(frozen=True)
class Covariances:
    """Second moments of one block's factors over a data set.

    Attributes:
        inputs: A, ``[columns, columns]``, mean over examples, positions and cotangent sets.
        outputs: S, ``[rows, rows]``, mean over examples and positions, summed over cotangent sets.
        positions: T, so that the Kronecker-factored Fisher is T · S ⊗ A.
        rounding: relative, of the factors.
    """

    inputs: Tensor
    outputs: Tensor
    positions: float
    rounding: float


def covariances(
    factors: Iterable[dict[str, Factors]], examples: int, known_inputs: Mapping[str, Tensor] | None = None
) -> dict[str, Covariances]:
    """Return A and S of every block in float64.

    Args:
        factors: the factors of all batches and cotangent sets.
        examples: N, the number of examples that took part.
        known_inputs: A of blocks where it need not be measured.

    Raises:
        NotFiniteError: a factor that is not finite.
    """
    known = known_inputs or {}
    sums: dict[str, tuple[Tensor, Tensor, int, int]] = {}
    rounding: dict[str, float] = {}
    for parts in factors:
        for name, part in parts.items():
            a, d = part.inputs.flatten(0, 1), part.outputs.flatten(0, 1)
            inputs = known[name] if name in known else _upper_moment(a).double()
            outputs, rows, seen = _upper_moment(d).double(), len(a), len(part.inputs)
            if name in sums:
                old = sums[name]
                inputs = inputs if name in known else old[0] + inputs
                outputs, rows, seen = old[1] + outputs, old[2] + rows, old[3] + seen
            sums[name] = (inputs, outputs, rows, seen)
            rounding[name] = torch.finfo(a.dtype).eps
    result = {}
    for name, (inputs, outputs, rows, seen) in sums.items():
        if not (inputs.isfinite().all() and outputs.isfinite().all()):
            raise NotFiniteError(
                f"the factors of layer '{name}' are not finite: the weights or the inputs have diverged"
            )
        positions = rows / seen  # seen counts every example once a cotangent set
        inputs = inputs if name in known else (inputs + inputs.triu(1).T) / rows
        outputs = (outputs + outputs.triu(1).T) / (examples * positions)
        result[name] = Covariances(inputs, outputs, positions, rounding[name])
    return result


def _upper_moment(rows: Tensor) -> Tensor:
    """Return XᵀX on and above its diagonal, multiplied in X's dtype; by the BLAS routine for it on a CPU."""
    if rows.device.type != "cpu" or len(rows) < 2:
        return (rows.T @ rows).triu()
    transposed = rows.detach().contiguous().numpy().T
    with one_blas_thread():
        (syrk,) = get_blas_funcs(("syrk",), (transposed,))
        upper: Tensor = torch.from_numpy(syrk(1.0, transposed, lower=True).T)  # Fortran's lower half, zero elsewhere
    return upper


@dataclass(frozen=True)
class EigenBlock:
    """F of one block, (U_S ⊗ U_A) diag(Λ) (U_S ⊗ U_A)ᵀ, all float64.

    Attributes:
        inputs_cov: A, ``[columns, columns]``.
        outputs_cov: S, ``[rows, rows]``.
        inputs_basis: U_A, eigenvectors of A in columns.
        outputs_basis: U_S, eigenvectors of S in columns.
        eigenvalues: Λ, ``[rows, columns]``.
        positions: T of the data added last.
    """

    inputs_cov: Tensor
    outputs_cov: Tensor
    inputs_basis: Tensor
    outputs_basis: Tensor
    eigenvalues: Tensor
    positions: float = 1.0

    @classmethod
    def zero(cls, rows: int, columns: int, device: torch.device) -> EigenBlock:
        """Return the block of a Fisher that is zero."""
        like = torch.zeros((), dtype=torch.float64, device=device)
        inputs, outputs = torch.eye(columns).to(like), torch.eye(rows).to(like)
        return cls(0 * inputs, 0 * outputs, inputs, outputs, like.new_zeros(rows, columns))

    @classmethod
    def of_inputs(cls, inputs: Iterable[Tensor], rows: int) -> EigenBlock:
        """Return the block of a Fisher that is zero, in the eigenbasis of A = E[a aᵀ].

        Args:
            inputs: a, 1 for the bias included, in parts ``[n, columns]``.
            rows: of the block.

        Raises:
            NotFiniteError: inputs that are not finite.
        """
        upper, count, rounding = torch.zeros((), dtype=torch.float64), 0, 0.0
        for a in inputs:
            upper, count = upper.to(a.device) + _upper_moment(a).double(), count + len(a)
            rounding = torch.finfo(a.dtype).eps
        if not upper.isfinite().all():
            raise NotFiniteError("the inputs are not finite")
        covariance = (upper + upper.triu(1).T) / count
        zero = cls.zero(rows, len(covariance), covariance.device)
        return replace(zero, inputs_cov=covariance, inputs_basis=eigenbasis(covariance, rounding))

    def fitted(self, block: Block) -> EigenBlock:
        """Return the curvature of a layer that may have grown since, zero on what it has gained.

        Raises:
            ValueError: the layer has become smaller, or has gained inputs, whose columns lie before the bias's.
        """
        known, width = self.eigenvalues.shape[1], block.shape[1]
        if block.bias is not None and known < width and known != block.widths[0]:  # a bias may begin to train
            raise ValueError(
                f"layer '{block.name}' has {width} columns, the bias's last, and its curvature {known}: give it new "
                "outputs rather than new inputs"
            )
        return self.grown(*block.shape)

    def grown(self, rows: int, columns: int) -> EigenBlock:
        """Return the block with zero curvature on rows and columns that the layer has gained since, at their end.

        Raises:
            ValueError: the layer has become smaller.
        """
        more_rows, more_columns = rows - self.eigenvalues.shape[0], columns - self.eigenvalues.shape[1]
        if more_rows < 0 or more_columns < 0:
            raise ValueError(f"a layer shrank from {tuple(self.eigenvalues.shape)} to {(rows, columns)}")
        if not (more_rows or more_columns):
            return self
        return EigenBlock(
            F.pad(self.inputs_cov, (0, more_columns, 0, more_columns)),
            F.pad(self.outputs_cov, (0, more_rows, 0, more_rows)),
            _extended(self.inputs_basis, more_columns),
            _extended(self.outputs_basis, more_rows),
            F.pad(self.eigenvalues, (0, more_columns, 0, more_rows)),
            self.positions,
        )

    def moved(self, added: Covariances, *, decay: float = 1.0, keep_inputs: bool = False) -> EigenBlock:
        """Return the block in the eigenbases of ``decay · old + added`` covariances, without the added eigenvalues.

        Λ' = decay · (U'_SᵀU_S)^{∘2} Λ ((U'_AᵀU_A)^{∘2})ᵀ = decay · diag(U'ᵀ F U'), so the trace is kept. With
        ``keep_inputs`` A and U_A stay as they are.
        """
        inputs_cov, inputs_basis = self.inputs_cov, self.inputs_basis
        if not keep_inputs:
            inputs_cov = decay * self.inputs_cov + added.inputs
            inputs_basis = eigenbasis(inputs_cov, added.rounding)
        outputs_cov = decay * self.outputs_cov + added.outputs
        outputs_basis = eigenbasis(outputs_cov, added.rounding)
        eigenvalues = torch.zeros_like(self.eigenvalues)
        if decay and self.eigenvalues.any():
            overlap_in = (inputs_basis.T @ self.inputs_basis).square()
            overlap_out = (outputs_basis.T @ self.outputs_basis).square()
            eigenvalues = decay * overlap_out @ self.eigenvalues @ overlap_in.T
        return EigenBlock(inputs_cov, outputs_cov, inputs_basis, outputs_basis, eigenvalues, added.positions)

    def plus(self, eigenvalues: Tensor) -> EigenBlock:
        """Return the block with further eigenvalues added."""
        return replace(self, eigenvalues=self.eigenvalues + eigenvalues)

    def with_bases_like(self, tensor: Tensor) -> EigenBlock:
        """Return the block with its bases in a tensor's dtype, for many rotations."""
        return replace(self, inputs_basis=self.inputs_basis.to(tensor), outputs_basis=self.outputs_basis.to(tensor))

    def rotate(self, matrix: Tensor) -> Tensor:
        """Return U_Sᵀ V U_A of ``[..., rows, columns]``, in the matrix's dtype."""
        return self.outputs_basis.to(matrix).T @ matrix @ self.inputs_basis.to(matrix)

    def rotate_back(self, matrix: Tensor) -> Tensor:
        """Return U_S V U_Aᵀ of ``[..., rows, columns]``, in the matrix's dtype."""
        return self.outputs_basis.to(matrix) @ matrix @ self.inputs_basis.to(matrix).T

    def kfac_eigenvalues(self) -> Tensor:
        """Return the eigenvalues that plain K-FAC has in this basis, T · d_S d_Aᵀ, ``[rows, columns]``.

        Meaningful for the Fisher of one data set, not for a sum over tasks.
        """
        d_a = torch.einsum("ij,ik,kj->j", self.inputs_basis, self.inputs_cov, self.inputs_basis)
        d_s = torch.einsum("ij,ik,kj->j", self.outputs_basis, self.outputs_cov, self.outputs_basis)
        return self.positions * torch.outer(d_s, d_a)


def _extended(basis: Tensor, more: int) -> Tensor:
    """Return the basis with unit vectors for new coordinates."""
    extended = F.pad(basis, (0, more, 0, more))
    extended.diagonal()[len(basis) :] = 1
    return extended


def rotated_squares(factors: Factors, block: EigenBlock) -> Tensor:
    """Return Σ_n (U_Sᵀ G_n U_A)^{∘2}, ``[rows, columns]`` float64."""
    a = factors.inputs @ block.inputs_basis.to(factors.inputs)
    d = factors.outputs @ block.outputs_basis.to(factors.outputs)
    return gradient_squares(Factors(a, d))


def gradient_squares(factors: Factors) -> Tensor:
    """Return Σ_n G_n^{∘2}, ``[rows, columns]`` float64: positions are summed *before* squaring."""
    a, d = factors.inputs, factors.outputs
    if a.shape[1] == 1:
        return (d[:, 0].square().T @ a[:, 0].square()).double()
    step = max(1, _CHUNK // (d.shape[2] * a.shape[2]))
    total = torch.zeros(d.shape[2], a.shape[2], dtype=torch.float64, device=a.device)
    for start in range(0, len(a), step):
        gradients = torch.einsum("nto,nti->noi", d[start : start + step], a[start : start + step])
        total += gradients.square().sum(0).double()
    return total

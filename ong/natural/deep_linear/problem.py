"""Linear regression with Gaussian noise: losses of an end-to-end map, gradients of a deep network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ong.errors import UserError
from ong.natural.deep_linear.network import DeepLinearNetwork

__all__ = ["LinearProblem", "batch_gradients"]


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """y | x ~ N(W* x, Σ) with E[x xᵀ] = C.

    With E = W − W*, two losses that differ in their metric only:

    * squared error ½ E‖y − W x‖² = ½ tr(E C Eᵀ) + ½ tr Σ, what the authors report; its floor ½ tr Σ is 1e-5
      for 20 outputs and noise of standard deviation 1e-3, 1e-4 for 200;
    * negative log-likelihood (up to a constant) ½ E (y − Wx)ᵀ Σ⁻¹ (y − Wx) = ½ tr(Σ⁻¹ E C Eᵀ) + n_L/2, whose
      Fisher matrix natural gradients invert. For Σ = σ² I it is the first divided by σ².

    Args:
        input_cov: C, n_0 × n_0, symmetric and positive semi-definite; it may be rank-deficient.
        teacher: W*, n_L × n_0.
        noise_cov: Σ, n_L × n_L, symmetric and positive definite.

    Raises:
        UserError: shapes that do not fit, a matrix that is not symmetric or not (semi-)definite, a singular
            Σ.
    """

    input_cov: Tensor
    teacher: Tensor
    noise_cov: Tensor

    def __post_init__(self) -> None:
        if self.teacher.dim() != 2:
            raise UserError(f"the teacher must be a matrix n_L × n_0; got shape {tuple(self.teacher.shape)}")
        n_out, n_in = self.teacher.shape
        for name, matrix, n in (("input", self.input_cov, n_in), ("output noise", self.noise_cov, n_out)):
            if tuple(matrix.shape) != (n, n):
                raise UserError(
                    f"the {name} covariance must have shape ({n}, {n}) to fit the teacher of shape "
                    f"({n_out}, {n_in}); got {tuple(matrix.shape)}"
                )
            if not torch.isfinite(matrix).all():
                raise UserError(f"the {name} covariance holds NaN or infinity")
            if float((matrix - matrix.T).abs().max()) > _tolerance(matrix.diagonal()):
                raise UserError(f"the {name} covariance is not symmetric")
        inputs, noise = self._input_eigen[0], self._noise_eigen[0]
        if float(inputs.min()) < -max(1e-8 * float(inputs.abs().max()), _tolerance(inputs)):
            raise UserError(f"the input covariance has the negative eigenvalue {float(inputs.min()):.3g}")
        if float(noise.min()) <= _tolerance(noise):
            raise UserError(
                f"the output noise covariance is singular or indefinite (smallest eigenvalue "
                f"{float(noise.min()):.3g}); every output needs some noise"
            )

    @classmethod
    def from_batch(cls, inputs: Tensor, targets: Tensor, noise_cov: Tensor) -> LinearProblem:
        """Return the problem a batch poses: C = XᵀX/N and its least-squares teacher W* = YᵀX (XᵀX)⁺.

        Its gradients are those of the batch's mean loss; its losses differ from the batch's by a constant.

        Args:
            inputs: X, N × n_0.
            targets: Y, N × n_L.
            noise_cov: Σ, n_L × n_L.
        """
        count = inputs.shape[0]
        cov = inputs.T @ inputs / count
        cov = (cov + cov.T) / 2
        cross = targets.T @ inputs / count
        values, vectors = torch.linalg.eigh(cov)
        kept = values > _tolerance(values)
        basis = vectors[:, kept]
        return cls(cov, (cross @ basis / values[kept]) @ basis.T, noise_cov)

    @property
    def dims(self) -> tuple[int, int]:
        """(n_0, n_L)."""
        return self.teacher.shape[1], self.teacher.shape[0]

    @cached_property
    def _input_eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.input_cov)
        return values, vectors

    @cached_property
    def _noise_eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.noise_cov)
        return values, vectors

    @cached_property
    def input_rank(self) -> int:
        """The number of eigenvalues of C above n_0 · eps · the largest."""
        values = self._input_eigen[0]
        return int((values > _tolerance(values)).sum())

    @cached_property
    def input_root(self) -> Tensor:
        """C^{½}, symmetric, n_0 × n_0, of rank ``input_rank``."""
        values, vectors = self._input_eigen
        roots = torch.where(values > _tolerance(values), values, torch.zeros_like(values)).sqrt()
        return (vectors * roots) @ vectors.T

    @cached_property
    def noise_inverse_root(self) -> Tensor:
        """Σ^{−½}, symmetric, n_L × n_L."""
        values, vectors = self._noise_eigen
        return (vectors / values.sqrt()) @ vectors.T

    @cached_property
    def noise_inverse(self) -> Tensor:
        """Σ⁻¹, n_L × n_L."""
        values, vectors = self._noise_eigen
        return (vectors / values) @ vectors.T

    @property
    def floor(self) -> float:
        """½ tr Σ, the squared-error loss of the teacher itself."""
        return 0.5 * float(self.noise_cov.diagonal().sum())

    def excess(self, product: Tensor) -> float:
        """Return ½ tr(E C Eᵀ), the squared-error loss above the floor, without cancellation near zero."""
        error = product - self.teacher
        return 0.5 * float(((error @ self.input_cov) * error).sum())

    def loss(self, product: Tensor) -> float:
        """Return the expected squared-error loss ½ E‖y − W x‖² of the map W."""
        return self.excess(product) + self.floor

    def likelihood_excess(self, product: Tensor) -> float:
        """Return ½ tr(Σ⁻¹ E C Eᵀ), the expected negative log-likelihood above the teacher's."""
        error = product - self.teacher
        return 0.5 * float(((self.noise_inverse @ error @ self.input_cov) * error).sum())

    def gradients(self, network: DeepLinearNetwork) -> list[Tensor]:
        """Return ∇_i = B_iᵀ Σ⁻¹ E C A_iᵀ, the gradients of the negative log-likelihood."""
        return network.vjp(self.noise_inverse @ self.error(network) @ self.input_cov)

    def squared_error_gradients(self, network: DeepLinearNetwork) -> list[Tensor]:
        """Return B_iᵀ E C A_iᵀ, the gradients of the squared-error loss."""
        return network.vjp(self.error(network) @ self.input_cov)

    def error(self, network: DeepLinearNetwork) -> Tensor:
        """Return E = W − W*.

        Raises:
            UserError: the network's inputs or outputs are not the teacher's.
        """
        ends = (network.dims[0], network.dims[-1])
        if ends != self.dims:
            raise UserError(
                f"a network of {ends[0]} inputs and {ends[1]} outputs does not fit a teacher of "
                f"{self.dims[0]} inputs and {self.dims[1]} outputs"
            )
        return network.product - self.teacher

    def with_unit_noise(self) -> LinearProblem:
        """Return the problem with Σ n_L / tr Σ: same natural gradients, damping in squared-error units."""
        return LinearProblem(self.input_cov, self.teacher, self.noise_cov / self.noise_cov.diagonal().mean())

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw inputs x ~ N(0, C) (count × n_0) and targets y ~ N(W* x, Σ) (count × n_L)."""
        n_in, n_out = self.dims
        values, vectors = self._noise_eigen
        noise_root = (vectors * values.sqrt()) @ vectors.T

        def normal(n: int) -> Tensor:
            like = self.teacher
            return torch.randn(count, n, generator=generator, dtype=like.dtype, device=like.device)

        inputs = normal(n_in) @ self.input_root
        return inputs, inputs @ self.teacher.T + normal(n_out) @ noise_root


def batch_gradients(network: DeepLinearNetwork, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Return the gradients of the mean of ½‖y − W x‖² over a batch X (N × n_0), Y (N × n_L)."""
    residuals = inputs @ network.product.T - targets
    return network.vjp(residuals.T @ inputs / inputs.shape[0])


def _tolerance(values: Tensor) -> float:
    """Return the size below which an eigenvalue of these is rounding: n · eps · the largest."""
    return float(values.abs().max()) * values.numel() * torch.finfo(values.dtype).eps

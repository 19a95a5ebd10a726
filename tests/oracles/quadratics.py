"""Random problems of math.md §8: a quadratic loss, the real metric and projection, and both written out in matrices."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import torch
from nets import flat, mlp, unflat, written_out
from numpy.typing import NDArray
from torch import Tensor, nn

from ong.curvature import EKFAC, Block, Metric, find_blocks
from ong.projection import DirectionMemory, MetricProjection, collect_directions

Array = NDArray[np.float64]
EXACT = 1e-9  # of float64, where GᵀM⁻¹G has a condition of 1e4 at most

DAMPING = 0.3
STORED = 5


@dataclass
class Problem:
    """L(θ) = mean_i ½(θ − c_i)ᵀA_i(θ − c_i) over 37 parameters of a small net, whose M and G are real ones.

    Attributes:
        projection: P as the package has it, on vectors over blocks.
        model: where F and G are taken.
        past: inputs that F is taken of.
        g: G, ``[p, STORED]``.
        m: M, from U_S, U_A and Λ written out.
        p: M⁻¹ − M⁻¹G(GᵀM⁻¹G)⁺GᵀM⁻¹, by numpy.
        hessians: A_i.
        centres: c_i.
    """

    projection: MetricProjection
    blocks: dict[str, Block]
    model: nn.Module
    past: Tensor
    g: Array
    m: Array
    p: Array
    hessians: list[Array]
    centres: list[Array]
    start: Array
    root: Array = field(init=False)

    def __post_init__(self) -> None:
        self.root = np.real(scipy.linalg.sqrtm(self.m))

    @property
    def size(self) -> int:
        return len(self.m)

    @property
    def fisher(self) -> Array:
        """F = λ(M − I)."""
        return DAMPING * (self.m - np.eye(self.size))

    def step(self, gradient: Array) -> Array:
        """v = Pg, by the package."""
        return flat(self.projection(unflat(torch.from_numpy(gradient), self.blocks)), self.blocks).numpy()

    def norm2(self, vector: Array) -> float:
        """‖v‖²_M."""
        return float(vector @ self.m @ vector)

    def loss(self, theta: Array) -> float:
        parts = [0.5 * (theta - c) @ a @ (theta - c) for a, c in zip(self.hessians, self.centres, strict=True)]
        return float(np.mean(parts))

    def gradients(self, theta: Array) -> list[Array]:
        """One a summand; their mean is g."""
        return [a @ (theta - c) for a, c in zip(self.hessians, self.centres, strict=True)]

    def gradient(self, theta: Array) -> Array:
        return np.mean(self.gradients(theta), axis=0)

    @property
    def free(self) -> Array:
        """A basis of ker Gᵀ that is orthonormal in M."""
        basis = scipy.linalg.null_space(self.g.T)
        return np.linalg.inv(self.root) @ scipy.linalg.orth(self.root @ basis)

    @property
    def curvatures(self) -> Array:
        """Eigenvalues of the loss's Hessian on ker Gᵀ in the metric: the last is β, the first μ."""
        return np.linalg.eigvalsh(self.free.T @ np.mean(self.hessians, axis=0) @ self.free)

    @property
    def best(self) -> Array:
        """The minimum over S = θ_0 + ker Gᵀ, from the KKT system."""
        hessian, n = np.mean(self.hessians, axis=0), self.g.shape[1]
        system = np.block([[hessian, self.g], [self.g.T, np.zeros((n, n))]])
        right = np.concatenate([-self.gradient(self.start), np.zeros(n)])
        return self.start + np.linalg.lstsq(system, right, rcond=None)[0][: self.size]


def problem(seed: int, summands: int = 1) -> Problem:
    """A random one."""
    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    model = mlp(4, 5, 2, seed=seed)
    blocks = find_blocks(model)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (12,), generator=generator)
    ekfac = EKFAC.fit(model, [[x, y]], fisher="logit", generator=generator)
    memory = DirectionMemory(collect_directions(model, [x[:STORED], y[:STORED]], blocks=blocks))
    rows = memory.rows.items()
    g = torch.cat([part.dense(torch.arange(STORED)).flatten(1) for _, part in rows], 1).T.numpy()
    fisher = scipy.linalg.block_diag(*(written_out(ekfac.blocks[name]).numpy() for name in blocks))
    m = np.eye(len(fisher)) + fisher / DAMPING
    inverse = np.linalg.inv(m)
    along = inverse @ g
    p = inverse - along @ np.linalg.pinv(g.T @ along) @ along.T
    roots = [random.normal(size=(len(m), len(m))) / len(m) ** 0.5 for _ in range(summands)]
    return Problem(
        MetricProjection(memory, Metric(ekfac, blocks, DAMPING)), blocks, model, x, g, m, p,
        [root @ root.T + 0.1 * np.eye(len(m)) for root in roots],
        [random.normal(size=len(m)) for _ in range(summands)],
        random.normal(size=len(m)),
    )  # fmt: skip

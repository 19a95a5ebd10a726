"""Small networks and brute-force oracles that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.utils._python_dispatch import TorchDispatchMode

from ong.curvature import (
    Block,
    DiagonalBlock,
    EigenBlock,
    batch_size,
    evaluating,
    example_gradients,
    find_blocks,
    select,
)


def mlp(*widths: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A tanh network with biases, weights drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return seeded(nn.Sequential(*layers[:-1]), generator, dtype)


M = TypeVar("M", bound=nn.Module)


def seeded(model: M, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> M:
    """Draw every parameter anew, so that no test depends on the global generator."""
    model = model.to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) / fan_in**0.5)
    return model


def jacobian(model: nn.Module, x: Tensor, blocks: dict[str, Block] | None = None) -> Tensor:
    """∂h/∂θ by torch.func in the blocks' layout: ``[N, C, parameters]``, blocks row by row, one after the other."""
    model.eval()
    blocks = blocks or find_blocks(model)
    names = {id(p): n for n, p in model.named_parameters()}
    jac = jacrev(lambda parameters: functional_call(model, parameters, (x,)))(dict(model.named_parameters()))
    parts = []
    for block in blocks.values():
        columns = [
            jac[names[id(p)]].flatten(2).reshape(*jac[names[id(p)]].shape[:2], block.rows, -1) for p in block.parameters
        ]
        parts.append(torch.cat(columns, dim=3).flatten(2))
    return torch.cat(parts, dim=2).detach()


def flat(vector: dict[str, Tensor], blocks: dict[str, Block]) -> Tensor:
    """A vector over blocks in the layout of :func:`jacobian`."""
    return torch.cat([vector[name].reshape(*vector[name].shape[:-2], -1) for name in blocks], dim=-1)


def unflat(vector: Tensor, blocks: dict[str, Block]) -> dict[str, Tensor]:
    """The inverse of :func:`flat` for a single vector."""
    sizes = [block.shape[0] * block.shape[1] for block in blocks.values()]
    return {
        name: part.reshape(block.shape) for (name, block), part in zip(blocks.items(), vector.split(sizes), strict=True)
    }


def fisher(jac: Tensor, logits: Tensor, inner: Tensor | None = None) -> Tensor:
    """E_x[Jᵀ (diag p − ppᵀ) J] from the definition."""
    p = torch.softmax(logits.detach(), 1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :] if inner is None else inner
    return torch.einsum("nci,ncd,ndj->ij", jac, inner, jac) / len(jac)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


Run = Callable[[Any], Tensor]


def cotangents_of(logits: Tensor) -> Tensor:
    """Two sets of cotangents ``[2, N, C]`` that differ for every example."""
    generator = torch.Generator().manual_seed(11)
    return torch.randn(2, *logits.shape, generator=generator, dtype=torch.float64).to(logits)


def one_by_one(model: nn.Module, run: Run, batch: Any, blocks: Mapping[str, Block]) -> dict[str, Tensor]:
    """∇ u_nᵀh_n for both of :func:`cotangents_of`, by autograd on batches of one: ``[2 N, rows, columns]`` a block."""
    with evaluating(model):
        sets = cotangents_of(run(batch))
        parameters = [p for block in blocks.values() for p in block.parameters]
        rows: dict[str, list[Tensor]] = {name: [] for name in blocks}
        for u in sets:
            for n in range(len(u)):
                single = run(select(batch, slice(n, n + 1)))
                found = torch.autograd.grad(single, parameters, u[n : n + 1], allow_unused=True)
                gradients = {
                    id(p): torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g
                    for p, g in zip(parameters, found, strict=True)
                }
                for name, block in blocks.items():
                    parts = [gradients[id(p)].reshape(block.rows, -1) for p in block.parameters]
                    rows[name].append(torch.cat(parts, 1))
    return {name: torch.stack(parts) for name, parts in rows.items()}


def dense_gradients(model: nn.Module, run: Run, batch: Any, blocks: Mapping[str, Block]) -> dict[str, Tensor]:
    """The same by :func:`ong.curvature.example_gradients`, written out; zero for a block without factors."""
    with evaluating(model):
        sets = list(example_gradients(blocks, run, batch, lambda h, _: cotangents_of(h)))
    found = {}
    for name, block in blocks.items():
        parts = [
            torch.einsum("ntr,ntc->nrc", s[name].outputs, s[name].inputs)
            if name in s
            else torch.zeros(batch_size(batch), *block.shape, dtype=block.values().dtype)
            for s in sets
        ]
        found[name] = torch.cat(parts)
    return found


def written_out(block: EigenBlock | DiagonalBlock) -> Tensor:
    """F of one block as a matrix over its parameters, row by row: (U_S ⊗ U)Λ(U_S ⊗ U)ᵀ + U_S diag(τ) U_Sᵀ ⊗ (I − UUᵀ)."""
    if isinstance(block, DiagonalBlock):
        return torch.diag(block.eigenvalues.flatten())
    basis = torch.kron(block.outputs_basis, block.inputs_basis)
    off = torch.eye(len(block.inputs_basis)).to(basis) - block.inputs_basis @ block.inputs_basis.T
    rest = (block.outputs_basis * block.rest) @ block.outputs_basis.T
    return (basis * block.eigenvalues.flatten()) @ basis.T + torch.kron(rest, off)


def diagonal_blocks(matrix: Tensor, blocks: Mapping[str, Block]) -> dict[str, Tensor]:
    """The blocks on the diagonal of a matrix over all parameters, in the layout of :func:`jacobian`."""
    result, start = {}, 0
    for name, block in blocks.items():
        size = block.shape[0] * block.shape[1]
        result[name] = matrix[start : start + size, start : start + size]
        start += size
    return result

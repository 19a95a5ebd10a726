"""Small networks and brute-force oracles that several tests share."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from ong.curvature import Block, find_blocks


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

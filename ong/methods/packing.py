"""Stored tensors, kept in the bytes they came in: codes of one byte and a table of levels.

A grey-level image has 256 levels, whatever normalisation made of them; as codes it costs a byte a pixel, where
float32 costs four. What is unpacked is what was packed, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ong.curvature import map_batch
from ong.projection import as_halves, from_halves

__all__ = ["pack", "pack_nested", "packed_bytes", "select_packed", "unpack", "unpack_nested"]

_LEVELS = 256
_SAMPLE = 2**16
_BY_ROW = ("codes", "half", "halves", "exponents", "values")
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack(tensor: Tensor, *, half: bool = False) -> dict[str, Tensor]:
    """Return the smallest lossless form of a tensor: x = levels[codes], where x has at most 256 values.

    Where it has more, two kinds of stored inputs still have tables: a tensor of at least 4 dimensions one a channel
    (dimension 1), as images normalised channel by channel need; any other one for all columns but the last, and one for
    that (inputs of a layer beside the ones of its bias). Numbers of 11 significant bits beside a power of two a row
    (:func:`ong.projection.rounded`) are kept as float16. Levels are told apart by their bits, so that −0 and NaN come
    back too.

    Args:
        tensor: anything, on any device.
        half: keep floats wider than 2 bytes as float16 where levels do not apply and none is too large for it; this one
            rounds (logits).

    Returns:
        Tensors alone, on the tensor's device: ``{"codes": uint8 like tensor, "levels": [K]}`` with K ≤ 256, its levels
        ``[C, K]`` for channels, or with ``"last": [K']`` for the last column; ``{"half": float16 like tensor, "like":
        empty, of the tensor's dtype}``; ``{"halves": float16, "exponents": one a row, "like": …}``; or ``{"values":
        tensor}``.
    """
    tensor = tensor.detach()
    packed = _coded(tensor)
    if packed is not None and packed_bytes(packed) < packed_bytes(tensor):
        return packed
    if (halved := _halved(tensor)) is not None:
        return halved
    if half and tensor.is_floating_point() and tensor.element_size() > 2:
        rounded = tensor.half()
        if rounded.isfinite().equal(tensor.isfinite()):
            return {"half": rounded, "like": tensor.new_empty(0)}
    return {"values": tensor}


def unpack(state: Mapping[str, Tensor]) -> Tensor:
    """Return what :func:`pack` was given (rounded to float16 when ``half`` was asked for)."""
    if "values" in state:
        return state["values"]
    if "half" in state:
        return state["half"].to(state["like"].dtype)
    if "halves" in state:
        return from_halves(state["halves"], state["exponents"], state["like"].dtype)
    codes, levels = state["codes"], state["levels"]
    if "last" in state:
        return torch.cat([_taken(levels, codes[..., :-1]), _taken(state["last"], codes[..., -1:])], -1)
    if levels.ndim == 1:
        return _taken(levels, codes)
    return torch.stack([_taken(table, part) for table, part in zip(levels, codes.unbind(1), strict=True)], 1)


def pack_nested(values: Any) -> Any:
    """Return nested mappings and sequences with each tensor packed; whatever else they hold stays."""
    return map_batch(pack, values)


def unpack_nested(state: Any) -> Any:
    """Return what :func:`pack_nested` was given, sequences as lists."""
    if isinstance(state, Mapping):
        if any(isinstance(part, Tensor) for part in state.values()):  # what pack made of a tensor
            return unpack(state)
        return {key: unpack_nested(part) for key, part in state.items()}
    return [unpack_nested(part) for part in state] if isinstance(state, list) else state


def select_packed(state: Any, index: Tensor) -> Any:
    """Return some rows of what :func:`pack` or :func:`pack_nested` made, still packed."""
    if isinstance(state, Mapping):
        return {
            key: part[index.to(part.device)]
            if key in _BY_ROW and isinstance(part, Tensor)
            else select_packed(part, index)
            for key, part in state.items()
        }
    return [select_packed(part, index) for part in state] if isinstance(state, list) else state


def packed_bytes(state: Any) -> int:
    """Return the bytes of every tensor in nested mappings and sequences."""
    sizes: list[int] = []
    map_batch(lambda tensor: sizes.append(tensor.numel() * tensor.element_size()), state)
    return sum(sizes)


def _taken(levels: Tensor, codes: Tensor) -> Tensor:
    return levels.index_select(0, codes.flatten().int()).view(codes.shape)


def _halved(tensor: Tensor) -> dict[str, Tensor] | None:
    """Return float16 and exponents, or None where they round."""
    if tensor.dtype not in (torch.float32, torch.float64) or tensor.ndim < 2 or tensor.is_meta or not tensor.numel():
        return None
    halves, exponents = as_halves(tensor[:1])
    if not _same(from_halves(halves, exponents, tensor.dtype), tensor[:1]):  # seen without going through all of it
        return None
    halves, exponents = as_halves(tensor)
    if not _same(from_halves(halves, exponents, tensor.dtype), tensor):
        return None
    return {"halves": halves, "exponents": exponents, "like": tensor.new_empty(0)}


def _same(left: Tensor, right: Tensor) -> bool:
    """Return whether tensors are equal to the bit."""
    bits = _BITS[right.element_size()]
    return left.contiguous().view(bits).equal(right.contiguous().view(bits))


def _coded(tensor: Tensor) -> dict[str, Tensor] | None:
    """Return codes and levels, or None where there are too many levels."""
    if tensor.element_size() not in _BITS or tensor.is_complex() or tensor.is_meta or not tensor.numel():
        return None
    bits = tensor.view(_BITS[tensor.element_size()])
    if (coded := _codes(bits)) is not None:
        return {"codes": coded[0], "levels": coded[1].view(tensor.dtype)}
    if tensor.ndim >= 4:
        channels = [_codes(channel) for channel in bits.unbind(1)]
        found = [coded for coded in channels if coded is not None]
        if len(found) < len(channels):
            return None
        most = max(len(levels) for _, levels in found)
        tables = [torch.cat([levels, levels[-1:].expand(most - len(levels))]) for _, levels in found]
        codes = torch.stack([codes for codes, _ in found], 1)
        return {"codes": codes, "levels": torch.stack(tables).view(tensor.dtype)}
    if tensor.ndim >= 2 and (last := _codes(bits[..., -1:])) and (others := _codes(bits[..., :-1])):
        codes = torch.cat([others[0], last[0]], -1)
        return {"codes": codes, "levels": others[1].view(tensor.dtype), "last": last[1].view(tensor.dtype)}
    return None


def _codes(bits: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the place of each number among the distinct ones, and these; None when they are more than 256."""
    flat = bits.flatten().contiguous()
    levels = _distinct(flat[:: max(1, len(flat) // _SAMPLE)])
    while len(levels) <= _LEVELS:
        places = torch.bucketize(flat, levels, out_int32=True).clamp_(max=len(levels) - 1)
        other = levels.index_select(0, places) != flat
        if not other.any():
            return places.to(torch.uint8).view(bits.shape), levels
        levels = _distinct(torch.cat([levels, _distinct(flat[other])]))  # levels that the sample missed
    return None


def _distinct(numbers: Tensor) -> Tensor:
    return torch.unique(numbers)  # type: ignore[no-any-return]

"""Examples of finished tasks, each with the outputs that the network gave it when its task ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ong.curvature import Batch, map_batch, select
from ong.methods.data import joined
from ong.methods.packing import pack, pack_nested, packed_bytes, select_packed, unpack, unpack_nested

__all__ = ["ExampleStore"]


class ExampleStore:
    """A fixed number of examples, the same share of every finished task, with their logits.

    Inputs are kept in the bytes they came in (:mod:`ong.methods.packing`), logits in float16: 805 bytes an MNIST digit.
    Batches of one form lie together; others, such as texts of several lengths, beside each other.
    """

    def __init__(self, size: int) -> None:
        """Start empty.

        Args:
            size: examples of all tasks together.
        """
        self.size = size
        self._parts: list[dict[str, Any]] = []  # "batch", "logits", "task": packed; "count"

    def __len__(self) -> int:
        return sum(self._lengths)

    @property
    def _lengths(self) -> list[int]:
        return [part["count"] for part in self._parts]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return packed_bytes([[part["batch"], part["logits"], part["task"]] for part in self._parts])

    def share(self, tasks: int) -> int:
        """Return how many examples each of so many tasks may have."""
        return self.size // tasks

    def add(self, examples: list[tuple[Batch, Tensor]], task: int) -> None:
        """Store a task's batches and their logits, and let go of what is more than each task's share.

        Args:
            examples: at most as many as :meth:`share` of ``task + 1``, in random order.
            task: tasks that finished before.
        """
        share = self.share(task + 1)
        found: dict[Any, list[list[Any]]] = {}
        for batch, logits, tasks in self._unpacked():
            kept = _firsts(tasks, share)
            found.setdefault(_form(batch, logits), []).append([select(batch, kept), logits[kept], tasks[kept]])
        for batch, logits in examples:
            tasks = torch.full((len(logits),), task, device=logits.device)
            found.setdefault(_form(batch, logits), []).append([batch, logits, tasks])
        self._parts = []
        for pieces in found.values():
            batch, logits, tasks = joined(pieces)
            if len(tasks):
                packed = {"batch": pack_nested(batch), "logits": pack(logits, half=True), "task": pack(tasks)}
                self._parts.append(packed | {"count": len(tasks)})

    def _unpacked(self) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        for part in self._parts:
            yield unpack_nested(part["batch"]), unpack(part["logits"]), unpack(part["task"])

    def take(self, index: Tensor) -> list[tuple[Batch, Tensor]]:
        """Return examples by number, those of one form together, with their logits."""
        if len(self._parts) == 1:
            return [_examples(self._parts[0], index)]
        found, start = [], 0
        for part, length in zip(self._parts, self._lengths, strict=True):
            here = index[(index >= start) & (index < start + length)] - start
            start += length
            if len(here):
                found.append(_examples(part, here))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what is stored, packed."""
        return {"parts": list(self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self._parts = list(state["parts"])


def _examples(part: dict[str, Any], index: Tensor) -> tuple[Batch, Tensor]:
    return unpack_nested(select_packed(part["batch"], index)), unpack(select_packed(part["logits"], index))


def _form(batch: Batch, logits: Tensor) -> Any:
    """Return what batches that can lie together have in common."""
    found: list[Any] = [logits.shape[1:]]
    map_batch(lambda t: found.append((t.shape[1:], t.dtype)), batch)
    return tuple(found)


def _firsts(tasks: Tensor, share: int) -> Tensor:
    """Return the places of the first ``share`` examples of each task."""
    return torch.cat([torch.nonzero(tasks == task)[:share, 0] for task in tasks.unique()]).sort().values  # type: ignore[no-untyped-call]

"""Where tasks begin and end: in streams of whole tasks, and in online streams of their pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from avalanche.benchmarks import OnlineCLExperience
from torch import Tensor
from torch.utils.data import default_collate

from ong.errors import UserError

__all__ = ["Boundaries", "check_boundaries", "identity_of", "task_of", "whole_task"]


def task_of(experience: Any) -> Any:
    """Return the experience that holds the whole task: where a piece of an online stream was cut from, or itself."""
    return experience.logging().origin_experience if isinstance(experience, OnlineCLExperience) else experience


def identity_of(task: Any) -> str:
    """Return what tells a task from others, in several streams too: its stream's name, its index, a digest of its data.

    The digest is of three examples, so it costs nothing and survives a restart.
    """
    task = task.logging()
    dataset = task.dataset.eval()
    collate = getattr(dataset, "collate_fn", None) or default_collate
    digest = hashlib.sha256(str(len(dataset)).encode())
    for part in collate([dataset[i] for i in (0, len(dataset) // 2, len(dataset) - 1)]):
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().double().numpy().tobytes())
    name = task._origin_stream.name if task._origin_stream is not None else "stream"
    return f"{name}/{task._current_experience}/{digest.hexdigest()[:16]}"


@contextmanager
def whole_task(strategy: Any) -> Iterator[None]:
    """Let ``strategy.experience`` be the whole task of the piece in training."""
    piece = strategy.experience
    strategy.experience = task_of(piece)
    try:
        yield
    finally:
        strategy.experience = piece


def check_boundaries(plugin: object, experience: Any) -> None:
    """See that an online stream tells where its tasks end.

    Raises:
        UserError: it does not.
    """
    if isinstance(experience, OnlineCLExperience) and not experience.access_task_boundaries:
        raise UserError(
            f"{type(plugin).__name__} keeps something from each finished task, and this online stream hides where "
            "tasks end; pass access_task_boundaries=True to split_online_stream"
        )


class Boundaries:
    """Follows the experiences that a strategy trains on.

    An experience of an ordinary stream is a task. In an online stream (Avalanche's ``split_online_stream``) a task is a
    row of pieces, which know their task's length. Avalanche 0.6 marks the last one only when it is shorter than the
    others, so the pieces are counted too.

    Attributes:
        first: index in its stream of the current task's first piece; None before any.
    """

    def __init__(self) -> None:
        self.first: int | None = None

    def begins(self, experience: Any) -> bool:
        """Return whether an experience is the first of its task, and remember where that is."""
        if not isinstance(experience, OnlineCLExperience):
            return True
        piece = experience.logging()
        if piece.is_first_subexp:
            self.first = piece.current_experience
        return bool(piece.is_first_subexp)

    def ends(self, experience: Any) -> bool:
        """Return whether an experience is the last of its task."""
        if not isinstance(experience, OnlineCLExperience):
            return True
        piece = experience.logging()
        if piece.origin_experience is None:  # tasks that fade into each other have no boundary
            return False
        counted = None if self.first is None else piece.current_experience - self.first + 1
        return bool(piece.is_last_subexp) or counted == piece.sub_stream_length

"""Where tasks begin and end: in streams of whole tasks, and in online streams of their pieces."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks import OnlineCLExperience
from torch import Tensor
from torch.utils.data import default_collate

from ong.curvature import Batch
from ong.errors import UserError
from ong.methods import ByNumber
from ong.streams.experiences.columns import in_memory_columns

__all__ = ["Boundaries", "ExperienceRows", "check_boundaries", "place_of", "stream_length", "task_of"]


def task_of(experience: Any) -> Any:
    """Return the experience that holds the whole task: where a piece of an online stream was cut from, or itself."""
    return experience.logging().origin_experience if isinstance(experience, OnlineCLExperience) else experience


def stream_length(experience: Any) -> int:
    """Return the number of tasks in an experience's stream, 1 where the stream does not tell."""
    stream: Any = getattr(task_of(experience), "_origin_stream", None)
    return len(stream) if hasattr(stream, "__len__") else 1


def place_of(task: Any) -> tuple[Any, int]:
    """Return what tells an experience from all others: its benchmark, or stream, or itself, and its index there."""
    stream: Any = getattr(task, "_origin_stream", None)
    owner = getattr(stream, "benchmark", None) or (stream if stream is not None else task)
    return owner, int(task.logging()._current_experience) if stream is not None else 0


class ExperienceRows(ByNumber):
    """An experience's examples by number, in evaluation's transforms: whole tensors where they lie in memory."""

    def __init__(self, experience: Any) -> None:
        """Look at the experience's data set."""
        self._dataset = experience.dataset.eval()
        self._columns = in_memory_columns(self._dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def take(self, index: Tensor) -> Batch:
        """Return some examples as a batch."""
        if self._columns is not None:
            return [column[index] for column in self._columns]
        collate = getattr(self._dataset, "collate_fn", None) or default_collate
        return list(collate([self._dataset[i] for i in torch.as_tensor(index).tolist()]))


def check_boundaries(what: object, experience: Any) -> None:
    """See that an online stream tells where its tasks end.

    Raises:
        UserError: it does not.
    """
    if isinstance(experience, OnlineCLExperience) and not experience.access_task_boundaries:
        raise UserError(
            f"{type(what).__name__} keeps something from each finished task, and this online stream hides where "
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

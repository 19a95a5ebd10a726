"""One end of a task: by how much old outputs have moved, and what a method promises of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature import (
    Batch,
    Run,
    Vector,
    Weights,
    batch_size,
    evaluating,
    first_order_change,
    gradients_at,
    inner,
    metric_change,
    outputs_at,
    remainder_bound,
    select,
    targets_of,
)
from ong.errors import UserError
from ong.methods.base import Method
from ong.methods.directional import DirectionMethod
from ong.projection import MetricProjection

__all__ = ["Past", "TaskEnd"]

_INTERVALS = 8  # that a segment is cut into for second differences
_DISTANT = 4  # one test example in so many is asked for its distance, which takes a projection


@dataclass
class Past:
    """A finished task s.

    Attributes:
        weights: θ_s.
        stored: training examples, the first that methods store.
        others: other training examples.
        test: test examples, or None.
    """

    weights: Weights
    stored: Batch
    others: Batch
    test: Batch


@dataclass(frozen=True)
class TaskEnd:
    """A model at the end of a task; what its numbers mean is said in :class:`ong.methods.Certificate`.

    Attributes:
        model: the network.
        run: from model and batch to the logits.
        past: the finished tasks, with the examples to look at.
        start: θ_{t−1}.
        now: θ_t.
    """

    model: nn.Module
    run: Run
    past: list[Past]
    start: Weights
    now: Weights

    def measured(self) -> dict[str, float | None]:
        """Return what needs no method."""
        changes = [self._change(past.others) for past in self.past]
        tests = [past.test for past in self.past if past.test is not None]
        ways = [self._way(past) for past in self.past]
        return {
            "measured": _mean([_squares(change) for change in changes]),
            **self._at_first_order(changes),
            "measured_test": _mean([_squares(self._change(test)) for test in tests]),
            "distance_measured": _mean([_true(self._change(test), test).square() for test in map(_few, tests)]),
            "stored": _mean([remainder_bound(way).square() for way in ways]),
            "stored_measured": _mean([(way[-1] - way[0]).square() for way in ways]),
        }

    def promised(self, method: Method) -> dict[str, float | None]:
        """Return what a method promises, before its own end of the task."""
        metric, fisher = method.past_metric or (None, None)
        directional = isinstance(method, DirectionMethod) and method.keeps_outputs
        projection = method._projection if directional else None  # type: ignore[attr-defined]
        way = self._vector(method, self._moved)
        found: dict[str, float | None] = {}
        if metric is not None:
            change = metric_change(metric, way) / len(self.past)
            if fisher == "logit":
                found = {"promised": change}
            elif fisher != "empirical" and method.network.known_likelihood == "categorical":
                found = {"divergence": change, "divergence_measured": self._divergence()}
        if projection is None and metric is None:
            return found
        if projection is not None and not isinstance(projection, MetricProjection):
            metric = None  # OGD's is Euclidean
        length = float(inner(way, way)) + (metric_change(metric, way) / metric.damping if metric is not None else 0.0)
        distances = []
        for test in (_few(past.test) for past in self.past if past.test is not None):
            gradients = gradients_at(self.model, self.start, test, self._cotangents(test), self.run)
            vectors = [self._vector(method, gradient) for gradient in gradients]
            project = projection if projection is not None else metric.precondition  # type: ignore[union-attr]
            distances.append(torch.stack([inner(vector, project(vector)) for vector in vectors]))
        mean = _mean(distances)
        return found | {"distance": None if mean is None else length * mean}

    @property
    def _moved(self) -> Weights:
        return {name: self.now[name] - self.start[name] for name, _ in self.model.named_parameters()}

    def _vector(self, method: Method, values: Weights) -> Vector:
        names = {id(p): name for name, p in self.model.named_parameters()}
        blocks = method.blocks.items()
        return {name: block.matrix([values[names[id(p)]] for p in block.parameters]) for name, block in blocks}

    def _at(self, weights: Weights, batch: Batch) -> Tensor:
        with evaluating(self.model), torch.no_grad():
            return outputs_at(self.model, weights, batch, self.run)

    def _change(self, batch: Batch) -> Tensor:
        return self._at(self.now, batch) - self._at(self.start, batch)

    def _cotangents(self, batch: Batch) -> Tensor:
        outputs = self._at(self.start, batch)
        return F.one_hot(_classes(outputs, batch), outputs.shape[1]).to(outputs)

    def _at_first_order(self, changes: list[Tensor]) -> dict[str, float | None]:
        moved = self._moved

        def change(weights: Weights, past: Past) -> Tensor:
            return first_order_change(self.model, weights, moved, past.others, self.run)

        try:
            then = [change(past.weights, past) for past in self.past]
            first = [change(self.start, past) for past in self.past]
        except NotImplementedError:
            return {}
        return {
            "exact": _mean([_squares(linear) for linear in then]),
            "first_order": _mean([_squares(linear) for linear in first]),
            "nonlinear": _mean([_squares(c - linear) for c, linear in zip(changes, then, strict=True)]),
        }

    def _divergence(self) -> float | None:
        before, after = (
            [self._at(w, past.others).log_softmax(1) for past in self.past] for w in (self.start, self.now)
        )
        return _mean([2 * (b.exp() * (b - a)).sum(1) for b, a in zip(before, after, strict=True)])

    def _way(self, past: Past) -> Tensor:
        """Return the true logits of stored examples on the segment from θ_s to θ_t, ``[points, N]``."""
        points = []
        for k in range(_INTERVALS + 1):
            between = {name: torch.lerp(t, self.now[name], k / _INTERVALS) for name, t in past.weights.items()}
            points.append(_true(self._at(between, past.stored), past.stored))
        return torch.stack(points)


def _few(test: Batch) -> Batch:
    return select(test, slice(0, -(-batch_size(test) // _DISTANT)))


def _squares(changes: Tensor) -> Tensor:
    return changes.square().sum(1)


def _mean(of_tasks: list[Tensor]) -> float | None:
    """Return the mean over tasks of means over examples."""
    return float(torch.stack([values.double().mean() for values in of_tasks]).mean()) if of_tasks else None


def _classes(outputs: Tensor, batch: Batch) -> Tensor:
    """Return which output is the true one; the only one where there is one."""
    if outputs.shape[1] == 1:
        return torch.zeros(len(outputs), dtype=torch.long, device=outputs.device)
    targets = targets_of(batch)
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        raise UserError("a certificate is of the logit of each example's class, and the targets are no class numbers")
    return targets


def _true(outputs: Tensor, batch: Batch) -> Tensor:
    return outputs.gather(1, _classes(outputs, batch)[:, None])[:, 0]

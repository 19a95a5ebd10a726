"""What OGD and ong-prior cost on networks that people train, against plain SGD: steps, a task's end, bytes, peak memory.

100 directions of one finished task, batches of 16, images of 3 × 32 × 32 random numbers, one thread. Seconds are the
process's CPU time, as the machine is shared. Steps of a method and plain ones alternate, and a ratio is the median over
turns. Peak memory is that of a process of its own for each. ``directions`` is OGD's end of a task, ``Gram`` its start
of the next; ``curvature`` is what the end of a task takes ong-prior more than OGD, ``metric`` its start of the next and
the first step there, which works GᵀM⁻¹G out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from measure import one_thread, publish

from ong.curvature.sketch import is_wide
from ong.experiments.models.build import build_model
from ong.experiments.schema import ModelRecipe
from ong.methods import OGD, Method, ONGPrior
from ong.methods.directional import STORAGES

NETWORKS = ("slim-resnet18", "vit-tiny", "resnet18")
CLASSES, TRAIN, SHAPE = 10, 1024, (3, 32, 32)
CONTENDERS = ("naive", "ogd", "ong-prior")


class Contender:
    """A network in training by SGD, with a method or none."""

    def __init__(self, network: str, kind: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.model = build_model(ModelRecipe(name=network), SHAPE, CLASSES)
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.01)
        x, y = torch.randn(TRAIN, *SHAPE), torch.arange(TRAIN) % CLASSES
        self.data, self.batch = [x, y], [x[: options.batch], y[: options.batch]]
        self.method: Method | None = None
        common = {"max_bytes": options.max_bytes, "storage": options.storage}
        if kind == "ogd":
            self.method = OGD(directions_per_task=options.directions, **common)
        elif kind == "ong-prior":
            self.method = ONGPrior(directions_per_task=options.directions, examples_per_task=options.examples, **common)
        if self.method is not None:
            self.method.attach(self.model, self.sgd)
            self.method.begin_task(self.data)

    def step(self) -> float:
        """Take a step, and return its seconds."""
        start = time.process_time()
        self.sgd.zero_grad()
        F.cross_entropy(self.model(self.batch[0]), self.batch[1]).backward()
        self.sgd.step()
        return time.process_time() - start

    def finish(self) -> tuple[float, float]:
        """Take a step, end the task and begin the next; seconds of the end and of the beginning with a first step."""
        self.step()
        if self.method is None:
            return 0.0, self.step()
        start = time.process_time()
        self.method.end_task(self.data)
        ended = time.process_time()
        self.method.begin_task(self.data)
        self.step()
        return ended - start, time.process_time() - ended


def beside(network: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of steps and of a task's end of one method, turn by turn with plain steps, and bytes kept."""
    naive, contender = Contender(network, "naive", options), Contender(network, kind, options)
    naive.finish()
    ended, began = contender.finish()
    turns = [(naive.step(), contender.step()) for _ in range(options.repeats)]
    step = median(ours for _, ours in turns)
    assert contender.method is not None
    return {
        "parameters": sum(p.numel() for p in naive.model.parameters()),
        "naive": median(plain for plain, _ in turns),
        "step": step,
        "by naive": median(ours / plain for plain, ours in turns),
        "end": ended,
        "start": began - step,
        "kept": contender.method.memory_bytes,
    }


def measured(network: str, options: argparse.Namespace) -> dict[str, Any]:
    """What both methods take."""
    ogd, prior = (beside(network, kind, options) for kind in CONTENDERS[1:])
    pair = dict(zip(CONTENDERS[1:], (ogd, prior), strict=True))
    return {
        "parameters": ogd["parameters"],
        "step": {"naive": ogd["naive"]} | {kind: found["step"] for kind, found in pair.items()},
        "by naive": {kind: found["by naive"] for kind, found in pair.items()},
        "directions": ogd["end"],
        "Gram": ogd["start"],
        "curvature": prior["end"] - ogd["end"],
        "curvature by operations": operations(network, options),
        "metric": prior["start"],
        "kept": {kind: found["kept"] for kind, found in pair.items()},
    }


def operations(network: str, options: argparse.Namespace) -> float:
    """What curvature takes at least, in plain steps: multiplications of the algorithm, alone.

    A layer of T positions, R rows, C columns takes T·R·C an example for each of the forward pass and the two backward
    ones. Of these curvature needs the first two, T·R² and the cheaper way to the squares
    (:func:`ong.curvature.squares.rotated_squares`), with r = 100 leading columns. The first 256 examples take both
    passes once more, and covariances of inputs, T·C²/2 (2·T·C·3r where a sketch takes their place), and of outputs.
    """
    model, rank = build_model(ModelRecipe(name=network), SHAPE, CLASSES), 100
    shapes: list[tuple[int, int, int]] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Conv2d):
            shapes.append((output[0, 0].numel(), module.out_channels, module.weight[0].numel()))
        elif isinstance(module, torch.nn.Linear):
            shapes.append((inputs[0][0].numel() // module.in_features, module.out_features, module.in_features + 1))

    for module in model.modules():
        module.register_forward_hook(note)
    model(torch.zeros(1, *SHAPE))
    passes = squares = moments = 0.0
    for t, r, c in shapes:
        thin = min(rank, c)
        passes += t * r * c
        sums = 0 if thin == c else t * t * (c + r)  # of all columns' squares, which are those over a whole basis
        squares += t * r * r + min(r * c * (t + thin), t * thin * (c + r) + sums)
        moments += t * (6 * thin * c if is_wide(c, rank) else c * c / 2) + t * r * r / 2
    plain = 3 * passes * options.batch
    return float((options.examples * (2 * passes + squares) + 256 * (2 * passes + moments)) / plain)


def peak(network: str, kind: str, options: argparse.Namespace) -> int:
    """Bytes of the most memory that a process of its own took."""
    keys = ("batch", "directions", "examples", "max_bytes", "storage", "repeats")
    numbers = [f"--{key}={value}" for key in keys if (value := getattr(options, key)) is not None]
    command = [sys.executable, __file__, "--networks", network, "--alone", kind, *numbers]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def alone(network: str, kind: str, options: argparse.Namespace) -> None:
    contender = Contender(network, kind, options)
    contender.finish()
    contender.step()
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # ru_maxrss would be no less than the parent's
    print(next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")))


def table(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown, a network a column."""

    def line(title: str, values: list[str]) -> str:
        return f"| {title} | {' | '.join(values)} |"

    nets = list(figures.values())
    lines = [
        line("network", list(figures)),
        "|---" * (len(figures) + 1) + "|",
        line("million parameters", [f"{net['parameters'] / 1e6:.1f}" for net in nets]),
    ]
    lines += [line(f"{kind}, s a step", [f"{net['step'][kind]:.3f}" for net in nets]) for kind in CONTENDERS]
    lines += [line(f"{kind} by naive", [f"{net['by naive'][kind]:.2f}" for net in nets]) for kind in CONTENDERS[1:]]
    for part in ("directions", "Gram", "curvature", "metric"):
        lines.append(line(f"{part}, s a task", [f"{net[part]:.1f}" for net in nets]))
    lines.append(
        line("curvature by operations, plain steps", [f"{net['curvature by operations']:.0f}" for net in nets])
    )
    lines += [line(f"{kind}, MB kept", [f"{net['kept'][kind] / 1e6:.0f}" for net in nets]) for kind in CONTENDERS[1:]]
    lines += [line(f"{kind}, MB at most", [f"{net['peak'][kind] / 1e6:.0f}" for net in nets]) for kind in CONTENDERS]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--directions", type=int, default=100)
    parser.add_argument("--examples", type=int, default=1000, help="of which the Fisher is taken")
    parser.add_argument("--max_bytes", type=int, help="of directions, the methods' option")
    parser.add_argument("--storage", choices=STORAGES, default="full", help="the methods' option")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each contender")
    parser.add_argument("--dry", action="store_true", help="print the table, write no file")
    parser.add_argument("--alone", choices=CONTENDERS, help="one contender, whose most memory is printed")
    options = parser.parse_args()
    one_thread()
    warnings.simplefilter("ignore")
    if options.alone:
        alone(options.networks[0], options.alone, options)
        return
    figures = {}
    for network in options.networks:
        peaks = {kind: peak(network, kind, options) for kind in CONTENDERS}
        figures[network] = {**measured(network, options), "peak": peaks}
        print(network, json.dumps(figures[network]), file=sys.stderr, flush=True)
    if options.dry:
        print(table(figures))
    else:
        publish("networks", figures, table(figures))


if __name__ == "__main__":
    main()

"""How long the estimate before training takes on large networks, what it proposes for 16 GB, and what is then taken.

Ten tasks of 2,000 examples to come; seconds are CPU time, of the process and of the copy of it that looks ahead. Of
ong-prior with four directions and four examples a task, the estimate for one task stands beside what a process of its
own took on top of the model: a step, the task's end, the beginning of the next and a step there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from measure import one_thread, publish
from torch import Tensor, nn

from ong.errors import UserError
from ong.methods import OGD, Method, ONGPrior, base, room

BUDGET, EXAMPLES, FEW = 16 * 10**9, 2000, 4


class Reader(nn.Module):
    """An embedding of 30,000 words, an LSTM or the words' mean, a head."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30_000, 300)
        self.lstm = nn.LSTM(300, 300, batch_first=True) if recurrent else None
        self.head = nn.Linear(300, 10)

    def forward(self, words: Tensor) -> Tensor:
        read = self.embedding(words)
        out: Tensor = self.head(read.mean(1) if self.lstm is None else self.lstm(read)[0][:, -1])
        return out


def bert() -> nn.Module:
    import transformers

    model: nn.Module = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=10))
    return model


def images(count: int) -> Tensor:
    return torch.randn(1, 3, 224, 224).expand(count, -1, -1, -1)


def words(count: int) -> Tensor:
    return torch.randint(1000, (1, 128)).expand(count, -1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "vgg11_bn": (torchvision.models.vgg11_bn, images),
    "resnet50": (torchvision.models.resnet50, images),
    "ViT-B/16": (torchvision.models.vit_b_16, images),
    "BERT-base": (bert, words),
    "embedding": (lambda: Reader(recurrent=False), words),
    "LSTM": (lambda: Reader(recurrent=True), words),
}


def attached(network: str, method: Method, tasks: int) -> tuple[Method, nn.Module, torch.optim.SGD]:
    """A method on a new network."""
    torch.manual_seed(0)
    model = NETWORKS[network][0]()
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4)
    return method.attach(model, sgd, tasks=tasks), model, sgd


def task(network: str, count: int) -> list[Tensor]:
    """Inputs and labels, one example repeated."""
    return [NETWORKS[network][1](count), torch.arange(count) % 10]


def refused(network: str, method: Method, budget: int) -> tuple[str, float]:
    """What an estimate says that does not fit, and its seconds; no words where it fits."""
    base.available_bytes = lambda device: budget
    found, _, _ = attached(network, method, 10)
    data, start = task(network, EXAMPLES), spent()
    try:
        found._room_ahead(base.Examples(data, found.device))
        return "", spent() - start
    except UserError as error:
        return str(error), spent() - start


def spent() -> float:
    """Seconds of CPU time of this process and of those it has waited for."""
    return sum(os.times()[:4])


def few() -> Method:
    """A method that takes little time."""
    return ONGPrior(directions_per_task=FEW, examples_per_task=FEW)


def resident(key: str) -> int:
    """Bytes of this process in memory, by a line of its status."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(key))


def peak(method: Method, data: list[Tensor]) -> int:
    """The bytes of an estimate, which the copy of the process that makes it tells in a refusal."""

    def check(name: str, needs: Any, shapes: Any, *rest: Any) -> None:
        raise UserError(str(needs(shapes).peak))

    real, base.check_room = base.check_room, check
    try:
        method._room_ahead(base.Examples(data, method.device))
    except UserError as error:
        return int(str(error))
    finally:
        base.check_room = real
    raise RuntimeError("nothing was estimated")


def alone(network: str) -> None:
    """Print the estimate of few directions and the most that they took."""
    method, _, sgd = attached(network, few(), 1)
    data = task(network, FEW)
    estimated, before = peak(method, data), resident("VmRSS")
    for _ in range(2):
        method.begin_task(data)
        sgd.zero_grad()
        F.cross_entropy(method.forward([part[:2] for part in data]), data[1][:2]).backward()
        sgd.step()
        if not method.tasks:
            method.end_task()
    print(estimated, resident("VmHWM") - before)


def measured(network: str) -> dict[str, Any]:
    """Seconds, proposals, and what was taken beside what was estimated."""
    found: dict[str, Any] = {}
    for make in (OGD, ONGPrior):
        _, seconds = refused(network, make(), 10**6)
        text, _ = refused(network, make(), BUDGET)
        proposed = re.findall(r"(\w+)=(\d+)", text)
        fits = not text or all(not refused(network, make(**{key: int(n)}), BUDGET)[0] for key, n in proposed)
        found[make.__name__] = {"seconds": seconds, "proposed": [f"{k}={n}" for k, n in proposed], "fits": fits}
    command = [sys.executable, __file__, "--alone", network]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {**found, "estimated": int(told[-2]), "taken": int(told[-1])}


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| network | OGD, s | ong-prior, s | OGD proposed | ong-prior proposed | estimated | taken |",
        "|---" * 7 + "|",
    ]
    for name, found in figures.items():
        cells = [f"{found[kind]['seconds']:.2f}" for kind in ("OGD", "ONGPrior")]
        cells += [" or ".join(f"`{p}`" for p in found[kind]["proposed"]) or "fits" for kind in ("OGD", "ONGPrior")]
        cells += [room.readable(found["estimated"]), room.readable(found["taken"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--alone", choices=NETWORKS, help="one network, whose most memory is printed")
    parser.add_argument("--dry", action="store_true", help="print the table, write no file")
    options = parser.parse_args()
    one_thread()
    warnings.simplefilter("ignore")
    if options.alone:
        alone(options.alone)
        return
    figures = {}
    for network in options.networks:
        figures[network] = measured(network)
        print(network, json.dumps(figures[network]), file=sys.stderr, flush=True)
    if options.dry:
        print(table(figures))
    else:
        publish("estimate", figures, table(figures))


if __name__ == "__main__":
    main()

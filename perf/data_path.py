"""Batches and evaluation: our stream, in stock strategies and with the plugin, against Avalanche's Permuted MNIST."""

from __future__ import annotations

import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks.classic import PermutedMNIST
from avalanche.training.supervised import Naive
from measure import alternate, medians, one_thread, publish, ratio
from torch import nn

import ong
from ong.experiments.run_plugins import NoMetrics
from ong.streams import load_dataset

REPEATS, TRAIN = 15, 2000
CONTENDERS = ("stock", "ours", "in memory", "plain")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def learner(batch: int, *plugins: Any, evaluation: int = 64) -> Naive:
    model = net()
    return Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01), criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch, eval_mb_size=evaluation, plugins=list(plugins), evaluator=NoMetrics(),
    )  # fmt: skip


def stock_stream(root: Path, tasks: int) -> Any:
    """Avalanche's benchmark on our 10,000 digits, laid out as torchvision's MNIST files."""
    digits = load_dataset("mnist-10k")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    parts = {"train": (digits.train_images, digits.train_labels), "t10k": (digits.test_images, digits.test_labels)}
    for part, (images, labels) in parts.items():
        header = struct.pack(">iiii", 2051, *images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">ii", 2049, len(labels)) + labels.byte().numpy().tobytes()
        )
    return PermutedMNIST(n_experiences=tasks, seed=0, dataset_root=root)


def limited(stream: Any, count: int) -> Any:
    """The first experience with its first examples only."""
    experience = stream[0]
    experience._dataset = experience._dataset.subset(list(range(count)))
    return experience


def plain_epoch(x: torch.Tensor, y: torch.Tensor, batch: int) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    order = torch.randperm(len(x))
    for start in range(0, len(x), batch):
        chosen = order[start : start + batch]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()


def contest(title: str, unit: str, scale: float, work: dict[str, Callable[[], Any]]) -> tuple[dict[str, float], str]:
    """Time the contenders; return the figures and a row of the table, seconds times ``scale``."""
    turns = alternate(work, REPEATS)
    seconds = medians(turns)
    pairs = [("stock", "ours"), ("stock", "in memory"), ("ours", "in memory"), ("in memory", "plain")]
    ratios = {f"{a} / {b}": ratio(turns, a, b) for a, b in pairs if a in work and b in work}
    shown = [f"{seconds[name] * scale:.3g}" if name in work else "–" for name in CONTENDERS]
    shown += [f"{ratios[key]:.2f}" if (key := f"{a} / {b}") in ratios else "–" for a, b in pairs]
    return seconds | ratios, f"| {title}, {unit} | {' | '.join(shown)} |"


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    figures: dict[str, Any] = {}
    rows = [
        "| work | Avalanche's stream | our stream | our stream, `InMemoryLoader` | plain torch loop "
        "| Avalanche's / ours | Avalanche's / `InMemoryLoader` | ours / `InMemoryLoader` | `InMemoryLoader` / plain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]

    def add(title: str, unit: str, scale: float, work: dict[str, Callable[[], Any]]) -> None:
        figures[title], row = contest(title, unit, scale, work)
        rows.append(row)

    with tempfile.TemporaryDirectory() as folder:
        stock = stock_stream(Path(folder), 1)
        ours = ong.permuted_mnist(tasks=1)
        stock_part, x, y = (
            limited(stock.train_stream, TRAIN),
            *ours.train_stream[0].dataset._flat_data._datasets[0].tensors,
        )
        our_part = limited(ours.train_stream, TRAIN)
        for batch in (10, 64):
            work: dict[str, Callable[[], Any]] = {
                "stock": lambda: learner(batch).train(stock_part, eval_streams=[]),
                "ours": lambda: learner(batch).train(our_part, eval_streams=[]),
                "in memory": lambda: learner(batch, ong.InMemoryLoader()).train(our_part, eval_streams=[]),
                "plain": lambda: plain_epoch(x[:TRAIN], y[:TRAIN], batch),
            }
            add(f"training, batch {batch}", "µs a sample", 1e6 / TRAIN, work)
        for batch in (64, 500):
            work = {
                "stock": lambda: learner(64, evaluation=batch).eval(stock.test_stream),
                "ours": lambda: learner(64, evaluation=batch).eval(ours.test_stream),
                "in memory": lambda: learner(64, ong.InMemoryLoader(), evaluation=batch).eval(ours.test_stream),
            }
            add(f"evaluation, batch {batch}", "µs a sample", 1e6 / len(ours.test_stream[0].dataset), work)
    publish("data_path", figures, "\n".join(rows))


if __name__ == "__main__":
    main()

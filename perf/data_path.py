"""Batches and evaluation: our stream against Avalanche's own Permuted MNIST and a plain torch loop."""

from __future__ import annotations

import struct
import tempfile
import warnings
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


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    figures: dict[str, Any] = {}
    rows = [
        "| work | stock Avalanche | ours | plain torch | stock / ours | ours / plain |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        stock = stock_stream(Path(folder), 1)
        ours = ong.permuted_mnist(tasks=1)
        stock_part, x, y = (
            limited(stock.train_stream, TRAIN),
            *ours.train_stream[0].dataset._flat_data._datasets[0].tensors,
        )
        our_part = limited(ours.train_stream, TRAIN)
        for batch in (10, 64):
            turns = alternate(
                {
                    "stock": lambda: learner(batch).train(stock_part, eval_streams=[]),
                    "ours": lambda: learner(batch, ong.InMemoryLoader()).train(our_part, eval_streams=[]),
                    "plain": lambda: plain_epoch(x[:TRAIN], y[:TRAIN], batch),
                },
                REPEATS,
            )
            ratios = {"stock / ours": ratio(turns, "stock", "ours"), "ours / plain": ratio(turns, "ours", "plain")}
            seconds = medians(turns)
            figures[f"training, batch {batch}"] = seconds | ratios
            micro = {name: value / TRAIN * 1e6 for name, value in seconds.items()}
            rows.append(
                f"| training, batch {batch}, µs a sample | {micro['stock']:.0f} | {micro['ours']:.1f} | {micro['plain']:.1f} "
                f"| {ratios['stock / ours']:.1f} | {ratios['ours / plain']:.2f} |"
            )
        turns = alternate(
            {
                "stock": lambda: learner(64).eval(stock.test_stream),
                "ours": lambda: learner(64, ong.InMemoryLoader(), evaluation=500).eval(ours.test_stream),
            },
            REPEATS,
        )
        seconds, times = medians(turns), ratio(turns, "stock", "ours")
        figures["evaluation of 2,000"] = seconds | {"stock / ours": times}
        rows.append(
            f"| evaluation of 2,000 samples, s | {seconds['stock']:.3f} | {seconds['ours']:.4f} | – | {times:.1f} | – |"
        )
    publish("data_path", figures, "\n".join(rows))


if __name__ == "__main__":
    main()

"""A whole 10-task run: ong-prior in our stream against Avalanche's plain fine-tuning on its own Permuted MNIST."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from data_path import net, stock_stream
from measure import alternate, medians, one_thread, publish
from torch import nn

from ong.experiments.jobs import perform
from ong.experiments.plan import plan

REPEATS = 3


def stock(folder: Path) -> None:
    """Avalanche's Naive, 2 epochs, batch 32, evaluation of all tasks before training and after each task."""
    stream = stock_stream(folder / "stock", 10)
    model = net()
    learner = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01), criterion=nn.CrossEntropyLoss(),
        train_mb_size=32, train_epochs=2, eval_mb_size=500, evaluator=EvaluationPlugin(),
    )  # fmt: skip
    learner.eval(stream.test_stream)
    for experience in stream.train_stream:
        learner.train(experience, eval_streams=[])
        learner.eval(stream.test_stream)


def ours(strategy: str, folder: Path) -> None:
    """``ong run permuted-mnist STRATEGY``: stream, training, evaluation, diagnostics, checkpoints and record."""
    (job,) = plan("permuted-mnist", [strategy], [0], out=folder)
    assert perform(job).record is not None


def fresh(work: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work(Path(folder))  # type: ignore[operator]


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore")
    seconds = medians(
        alternate(
            {
                "stock Avalanche, Naive": lambda: fresh(stock),
                "ong run, naive": lambda: fresh(lambda folder: ours("naive", folder)),
                "ong run, ong-prior": lambda: fresh(lambda folder: ours("ong-prior", folder)),
            },
            REPEATS,
        )
    )
    first = next(iter(seconds.values()))
    rows = ["| whole 10-task run | seconds | share of stock Naive |", "|---|---|---|"]
    rows += [f"| {name} | {value:.1f} | {value / first:.2f} |" for name, value in seconds.items()]
    publish("whole_run", {"seconds": seconds}, "\n".join(rows))


if __name__ == "__main__":
    main()

"""Seconds and epochs that the strategies need on the paper's autoencoder, measured side by side.

    python perf/autoencoder.py tune      # every strategy's trials, on a seed that `measure` does not use
    python perf/autoencoder.py measure   # alternating epochs of the contenders, one process, one thread

`measure` writes OUT.json and OUT.md. Processor seconds are compared, as the machine may be shared; wall-clock
seconds are given beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ong.experiments.autoencoder.build import load_data, make_trainer
from ong.experiments.autoencoder.schema import AutoencoderBenchmark, AutoencoderStrategy
from ong.experiments.recipes import list_recipes, load_benchmark, load_strategy, override
from ong.natural.autoencoder import AutoencoderData, DivergedError, EpochRecord, Trainer
from ong.report.crossings import at, crossing

TUNING_SEED = 1000

TRIALS: dict[str, list[dict[str, float]]] = {
    "sgd": [{"optimizer.lr": alpha / 20} for alpha in (0.04, 0.06, 0.08)],  # the paper's grid
    "sgd-momentum": [
        {"optimizer.lr": 1e-4},
        {"optimizer.lr": 2e-4},
        {"optimizer.lr": 4e-4},
        {"optimizer.lr": 4e-4, "batch_size": 50},
        {"optimizer.lr": 8e-4, "batch_size": 50},
        {"optimizer.lr": 1e-3, "batch_size": 100},
    ],
    "adam": [
        {"optimizer.lr": 1e-3},
        {"optimizer.lr": 5e-4},
        {"optimizer.lr": 5e-4, "batch_size": 50},
        {"optimizer.lr": 1e-3, "batch_size": 50},
        {"optimizer.lr": 5e-4, "batch_size": 20},
        {"optimizer.lr": 2e-3, "batch_size": 200},
    ],
    "soap": [
        {"optimizer.lr": 3e-3},
        {"optimizer.lr": 1e-3},
        {"optimizer.lr": 3e-3, "batch_size": 1000},
        {"optimizer.lr": 6e-3, "batch_size": 1000},
        {"optimizer.lr": 1e-3, "batch_size": 250},
        {"optimizer.lr": 3e-3, "batch_size": 250},
    ],
    "ngd-fast": [
        {"optimizer.lr": 0.25},
        {"optimizer.lr": 0.35},
        {"optimizer.lr": 0.3, "optimizer.momentum": 0.4},
        {"optimizer.lr": 0.25, "optimizer.factors_every": 5, "optimizer.refresh_every": 5, "optimizer.average": 0.9},
        {"optimizer.lr": 0.25, "optimizer.factors_every": 4, "optimizer.refresh_every": 8, "optimizer.average": 0.9},
        {
            "optimizer.lr": 0.15,
            "batch_size": 250,
            "optimizer.factors_every": 6,
            "optimizer.refresh_every": 12,
            "optimizer.adapt_every": 6,
        },
    ],
}

EPOCHS = {
    "sgd": 10,
    "sgd-momentum": 10,
    "adam": 10,
    "adam (1e-3, batch 100)": 10,
    "soap": 6,
    "ngd": 8,
    "ngd-ekfac": 3,
    "ngd-fast": 5,
}


def recipe(name: str, **changes: float) -> AutoencoderStrategy:
    strategy = load_strategy(name, "autoencoder")
    assert isinstance(strategy, AutoencoderStrategy)
    return override(strategy, changes)


def tune(benchmark: AutoencoderBenchmark, data: AutoencoderData, names: list[str], epochs: int) -> None:
    for name in names:
        for changes in TRIALS[name]:
            trainer = make_trainer(benchmark, recipe(name, **changes), data, TUNING_SEED)
            try:
                history = list(trainer.epochs(epochs))
                losses = [round(record.train_loss, 2) for record in history[1:]]
                print(name, changes, losses, f"{history[-1].cpu_seconds / epochs:.2f} s/epoch", flush=True)
            except DivergedError as error:
                print(name, changes, error, flush=True)


def contenders() -> dict[str, AutoencoderStrategy]:
    known = list_recipes("strategies/autoencoder")
    chosen = {name: recipe(name) for name in EPOCHS if name in known}
    chosen["adam (1e-3, batch 100)"] = recipe("adam", **{"optimizer.lr": 1e-3, "batch_size": 100})
    return {name: chosen[name] for name in EPOCHS}


def alternate(trainers: dict[str, Trainer], rounds: int) -> None:
    """Advance the trainers epoch by epoch, each spread evenly over the rounds."""
    running: dict[str, Iterator[EpochRecord]] = {name: t.epochs(EPOCHS[name]) for name, t in trainers.items()}
    for records in running.values():
        next(records)
    for number in range(1, rounds + 1):
        for name, records in running.items():
            due = math.floor(number * EPOCHS[name] / rounds)
            while len(trainers[name].history) <= due:
                record = next(records)
                print(
                    f"{name:24s} {record.epoch:3d} {record.train_loss:8.2f} {record.cpu_seconds:7.1f} s",
                    flush=True,
                )


def reached(history: list[EpochRecord], loss: float) -> tuple[float, float] | None:
    """Epochs and processor seconds at which the training loss first was at most ``loss``."""
    epochs = crossing([record.train_loss for record in history], loss)
    return None if epochs is None else (epochs, at(epochs, [record.cpu_seconds for record in history]))


def compared(trainers: dict[str, Trainer]) -> dict[str, dict[str, float | None]]:
    """Epochs and processor seconds to two targets, as shares of what the target's owner needs."""
    result: dict[str, dict[str, float | None]] = {}
    owners = [name for name in ("sgd", "adam", "adam (1e-3, batch 100)", "soap") if name in trainers]
    for owner in owners:
        last = trainers[owner].history[-1]
        for name, trainer in trainers.items():
            found = reached(trainer.history, last.train_loss)
            result[f"{name} to {owner}'s {last.train_loss:.2f} (epoch {last.epoch})"] = {
                "epochs": None if found is None else found[0],
                "cpu_seconds": None if found is None else found[1],
                "share_of_epochs": None if found is None else found[0] / last.epoch,
                "share_of_seconds": None if found is None else found[1] / last.cpu_seconds,
            }
    return result


def table(
    trainers: dict[str, Trainer],
    strategies: dict[str, AutoencoderStrategy],
    shares: dict[str, dict[str, float | None]],
) -> str:
    marks = (1, 2, 3, 4, 5, 7, 10)
    lines = [
        "Training loss (½ squared error an image) after epochs; processor (wall-clock) seconds an epoch.",
        "",
        "| strategy | options | " + " | ".join(map(str, marks)) + " | test, last | s/epoch |",
        "|---|---|" + "---|" * (len(marks) + 2),
    ]
    for name, trainer in trainers.items():
        history, options = trainer.history, strategies[name].optimizer.options
        cells = [f"{history[m].train_loss:.1f}" if m < len(history) else "" for m in marks]
        last = history[-1]
        told = ", ".join(f"{key} {value}" for key, value in options.items())
        seconds = f"{last.cpu_seconds / last.epoch:.1f} ({last.seconds / last.epoch:.1f})"
        cells = [
            name,
            f"batch {trainer.batch_size}, {told}",
            *cells,
            f"{last.test_loss:.1f}",
            seconds,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| to reach | epochs | s | share of epochs | share of seconds |", "|---|---|---|---|---|"]
    for name, values in shares.items():
        told = " | ".join("not reached" if v is None else f"{v:.2f}" for v in values.values())
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tune", "measure"))
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--strategies", nargs="*", help="all with trials, or all contenders, by default")
    parser.add_argument("--epochs", type=int, default=3, help="of a trial")
    parser.add_argument("--seed", type=int, default=0, help="of the measured runs")
    parser.add_argument("--out", type=Path, default=Path("runs/perf-autoencoder"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    benchmark = load_benchmark("mnist-autoencoder")
    assert isinstance(benchmark, AutoencoderBenchmark)
    benchmark = override(benchmark, {"dataset": arguments.dataset})
    data = load_data(benchmark)
    if arguments.what == "tune":
        tune(benchmark, data, arguments.strategies or list(TRIALS), arguments.epochs)
        return
    strategies = {
        name: strategy
        for name, strategy in contenders().items()
        if arguments.strategies is None or name in arguments.strategies
    }
    trainers = {name: make_trainer(benchmark, strategy, data, arguments.seed) for name, strategy in strategies.items()}
    alternate(trainers, max(EPOCHS[name] for name in trainers))
    shares = compared(trainers)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "dataset": arguments.dataset,
        "seed": arguments.seed,
        "torch": torch.__version__,
        "measured": time.strftime("%Y-%m-%d"),
        "runs": {
            name: {
                "batch_size": t.batch_size,
                "options": strategies[name].optimizer.options,
                "history": [vars(record) for record in t.history],
            }
            for name, t in trainers.items()
        },
        "shares": shares,
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = table(trainers, strategies, shares)
    arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

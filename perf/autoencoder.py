"""Epochs and seconds that optimizers need on the paper's autoencoder, Fashion-MNIST, measured side by side.

Every rival runs with several settings and the one with the lowest loss in the end is its best; the natural gradients
run as their recipes say. Epochs of all contenders alternate in one process on one thread, and processor seconds are
compared. SOAP needs ``pip install pytorch-optimizer`` and is left out, with a line that says so, without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import matplotlib.pyplot as plt
from measure import RESULTS, one_thread, publish

from ong.experiments.autoencoder.build import load_data, make_trainer
from ong.experiments.autoencoder.schema import AutoencoderBenchmark, AutoencoderStrategy
from ong.experiments.recipes import load_benchmark, load_strategy, override
from ong.natural.autoencoder import EpochRecord, Trainer
from ong.report.crossings import at, crossing

SEED = 0
# name: recipe, changes, epochs
CONTENDERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "sgd, α .04": ("sgd", {"optimizer.lr": 0.04 / 20}, 10),  # the paper's grid
    "sgd, α .06": ("sgd", {"optimizer.lr": 0.06 / 20}, 10),
    "sgd, α .08": ("sgd", {"optimizer.lr": 0.08 / 20}, 10),
    "adam, 1e-3, batch 100": ("adam", {"optimizer.lr": 1e-3, "batch_size": 100}, 10),
    "adam, 5e-4, batch 100": ("adam", {"optimizer.lr": 5e-4, "batch_size": 100}, 10),
    "adam, 5e-4, batch 50": ("adam", {"optimizer.lr": 5e-4, "batch_size": 50}, 10),
    "adam, 2e-3, batch 200": ("adam", {"optimizer.lr": 2e-3, "batch_size": 200}, 10),
    "soap, 3e-3, batch 500": ("soap", {"optimizer.lr": 3e-3, "batch_size": 500}, 5),
    "soap, 3e-3, batch 1000": ("soap", {"optimizer.lr": 3e-3, "batch_size": 1000}, 5),
    "ngd": ("ngd", {}, 8),
    "ngd-ekfac": ("ngd-ekfac", {}, 3),
    "ngd-fast": ("ngd-fast", {}, 8),
}
RIVALS = ("sgd", "adam", "soap")


def strategy_of(name: str) -> AutoencoderStrategy:
    recipe, changes, _ = CONTENDERS[name]
    strategy = load_strategy(recipe, "autoencoder")
    assert isinstance(strategy, AutoencoderStrategy)
    return override(strategy, changes)


def alternate(trainers: dict[str, Trainer]) -> None:
    """Advance the trainers epoch by epoch, each spread evenly over the rounds."""
    running: dict[str, Iterator[EpochRecord]] = {name: t.epochs(CONTENDERS[name][2]) for name, t in trainers.items()}
    rounds = max(CONTENDERS[name][2] for name in trainers)
    for records in running.values():
        next(records)
    for number in range(1, rounds + 1):
        for name, records in running.items():
            while len(trainers[name].history) <= math.floor(number * CONTENDERS[name][2] / rounds):
                record = next(records)
                print(f"{name:24s} {record.epoch:3d} {record.train_loss:8.2f} {record.cpu_seconds:7.1f} s", flush=True)


def races(trainers: dict[str, Trainer]) -> list[dict[str, Any]]:
    """Epochs and seconds to each rival's best last loss, as shares of the rival's own."""
    found = []
    for rival in RIVALS:
        of_rival = [name for name in trainers if CONTENDERS[name][0] == rival]
        if not of_rival:
            continue
        best = min(of_rival, key=lambda name: trainers[name].history[-1].train_loss)
        last = trainers[best].history[-1]
        for name, trainer in trainers.items():
            epochs = crossing([record.train_loss for record in trainer.history], last.train_loss)
            if epochs is not None and name != best:
                seconds = at(epochs, [record.cpu_seconds for record in trainer.history])
                found.append(
                    {"runner": name, "rival": best, "loss": last.train_loss, "rival_epochs": last.epoch}
                    | {"epochs": epochs, "seconds": seconds}
                    | {"share_of_epochs": epochs / last.epoch, "share_of_seconds": seconds / last.cpu_seconds}
                )
    return found


def table(trainers: dict[str, Trainer], found: list[dict[str, Any]]) -> str:
    marks = (1, 2, 3, 4, 5, 7, 10)
    lines = [
        "Paper's net, fashion-mnist, seed 0. Training loss (½ squared error an image) after epochs.",
        "",
        "| contender | " + " | ".join(map(str, marks)) + " | test, last | processor s an epoch |",
        "|---|" + "---|" * (len(marks) + 2),
    ]
    for name, trainer in trainers.items():
        history = trainer.history
        cells = [f"{history[m].train_loss:.1f}" if m < len(history) else "" for m in marks]
        each = f"{history[-1].cpu_seconds / history[-1].epoch:.1f}"
        lines.append(f"| {' | '.join([name, *cells, f'{history[-1].test_loss:.1f}', each])} |")
    lines += [
        "",
        "| contender | to the last loss of | epochs | s | share of epochs | share of s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['runner']} | {r['rival']}: {r['loss']:.2f} after {r['rival_epochs']} | {r['epochs']:.2f} | {r['seconds']:.1f} "
        f"| {r['share_of_epochs']:.2f} | {r['share_of_seconds']:.2f} |"
        for r in found
    ]
    return "\n".join(lines)


def plot(trainers: dict[str, Trainer]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for name, trainer in trainers.items():
        line = "-" if name.startswith("ngd") else "--"
        losses = [record.train_loss for record in trainer.history[1:]]
        axes[0].plot([record.epoch for record in trainer.history[1:]], losses, line, label=name)
        axes[1].plot([record.cpu_seconds for record in trainer.history[1:]], losses, line)
    axes[0].set(xlabel="epochs", ylabel="training loss, ½ squared error an image", yscale="log")
    axes[1].set(xlabel="processor seconds")
    figure.legend(loc="outside right center", fontsize="small")
    figure.savefig(RESULTS / "autoencoder.png", dpi=130)


def main() -> None:
    one_thread()
    benchmark = load_benchmark("mnist-autoencoder")
    assert isinstance(benchmark, AutoencoderBenchmark)
    benchmark = override(benchmark, {"dataset": "fashion-mnist"})
    data = load_data(benchmark)
    names = list(CONTENDERS)
    if find_spec("pytorch_optimizer") is None:
        print("soap is left out: pip install pytorch-optimizer")
        names = [name for name in names if CONTENDERS[name][0] != "soap"]
    trainers = {name: make_trainer(benchmark, strategy_of(name), data, SEED) for name in names}
    alternate(trainers)
    found = races(trainers)
    histories = {name: [vars(record) for record in t.history] for name, t in trainers.items()}
    publish("autoencoder", {"seed": SEED, "histories": histories, "races": found}, table(trainers, found))
    plot(trainers)


if __name__ == "__main__":
    main()

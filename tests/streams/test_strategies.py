"""The streams work with Avalanche's own strategies and models, with and without the fast loader."""

from typing import Any

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from avalanche.training import supervised
from avalanche.training.plugins import EvaluationPlugin
from torch import nn

from ong.streams import ImageDataset, permuted, split
from ong.streams.experiences.loader import InMemoryLoader

STRATEGIES: dict[str, dict[str, Any]] = {
    "Naive": {},
    "Replay": {"mem_size": 200},
    "EWC": {"ewc_lambda": 1.0},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
    "GEM": {"patterns_per_exp": 200, "memory_strength": 0.1},
    "AGEM": {"patterns_per_exp": 200, "sample_size": 200},
    "SynapticIntelligence": {"si_lambda": 0.001},
    "Cumulative": {},
    "JointTraining": {},
}
REMEMBERS = {"Replay", "GEM", "AGEM", "Cumulative", "JointTraining"}


def train(name: str, model: nn.Module, benchmark: Any, plugins: list[Any]) -> list[float]:
    """Train on the stream and return the accuracy on each test experience.

    In batches of 50, as batches of 32 leave a last one of 2 images, whose step can undo an epoch's.
    """
    strategy = getattr(supervised, name)(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), criterion=nn.CrossEntropyLoss(),
        train_mb_size=50, train_epochs=2, eval_mb_size=200, plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]), **STRATEGIES[name],
    )  # fmt: skip
    if name == "JointTraining":
        strategy.train(benchmark.train_stream)
    else:
        for experience in benchmark.train_stream:
            strategy.train(experience)
    result = strategy.eval(benchmark.test_stream)
    return [value for key, value in sorted(result.items()) if "Top1_Acc_Exp" in key and "/test_stream/" in key]


def mlp(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, outputs))


@pytest.mark.parametrize("fast", [False, True], ids=["stock", "in-memory"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_stock_strategies_learn_permuted_digits(digits: ImageDataset, name: str, fast: bool) -> None:
    accuracies = train(name, mlp(), permuted(digits, tasks=2), [InMemoryLoader()] if fast else [])
    assert len(accuracies) == 2
    assert accuracies[1] > 0.7  # chance is 0.1
    assert (accuracies[0] > 0.7) == (name in REMEMBERS)  # without rehearsal 0.4 to 0.6 are left


def test_the_fast_loader_changes_accuracy_no_more_than_another_order_does(digits: ImageDataset) -> None:
    benchmark = permuted(digits, tasks=2)
    fast = train("Naive", mlp(), benchmark, [InMemoryLoader()])
    stock = train("Naive", mlp(), benchmark, [])
    # 355 test images: three standard errors of an accuracy of 0.9 are 0.048
    assert fast[1] == pytest.approx(stock[1], abs=0.05)


def test_an_incremental_classifier_learns_class_incremental_digits(digits: ImageDataset) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), IncrementalClassifier(64))
    accuracies = train("Cumulative", model, split(digits, scenario="class"), [InMemoryLoader()])
    assert model[1].classifier.out_features == 10
    assert min(accuracies) > 0.7


class TwoHeads(MultiTaskModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU())
        self.heads = MultiHeadClassifier(30)

    def forward(self, x: torch.Tensor, task_labels: torch.Tensor) -> torch.Tensor:
        return self.heads(self.body(x), task_labels)


@pytest.mark.parametrize("name", ["Naive", "Replay", "EWC", "LwF", "GEM", "Cumulative", "JointTraining"])
def test_a_multi_head_model_learns_task_incremental_digits(digits: ImageDataset, name: str) -> None:
    torch.manual_seed(0)
    model = TwoHeads()
    accuracies = train(name, model, split(digits, scenario="task"), [InMemoryLoader()])
    assert len(model.heads.classifiers) == 5
    assert min(accuracies) > 0.8


def test_a_single_head_learns_domain_incremental_digits(digits: ImageDataset) -> None:
    accuracies = train("Cumulative", mlp(2), split(digits), [InMemoryLoader()])
    assert min(accuracies) > 0.8

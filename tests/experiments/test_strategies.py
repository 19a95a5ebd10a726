"""Avalanche's strategies and plugins as recipes: what they learn, what they keep, what has no recipe and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.models import PNN
from avalanche.models.utils import avalanche_model_adaptation
from avalanche.training.plugins import MIRPlugin
from avalanche.training.supervised.lamaml_v2 import LaMAML

from ong.errors import UserError
from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan
from ong.experiments.progress import Silent
from ong.experiments.recipes import list_recipes, load_strategy
from ong.streams import build_stream, load_dataset

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STREAMS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "permuted": ("permuted-digits", None, {}),
    "classes": ("split-digits", None, {}),
    "tasks": ("split-mnist", "digits", {"training.epochs": 3, "stream.scenario": "task"}),
    "images": ("split-mnist-class", None, {"training.epochs": 2, "stream.tasks": 2}),  # 28×28
}
SMALL = {"training.batch_size": 16, "model.hidden": [32]}
GAINS: dict[str, tuple[str, float]] = {
    "cope": ("classes", 0.4),
    "cwr": ("classes", 0.2),
    "der": ("permuted", 0.15),
    "der++": ("permuted", 0.15),
    "er-ace": ("permuted", 0.15),
    "er-aml": ("permuted", 0.15),
    "fecam": ("classes", 0.5),
    "feature-replay": ("classes", 0.3),
    "gdumb": ("classes", 0.5),
    "generative-replay": ("images", 0.2),
    "gss": ("classes", 0.5),
    "icarl": ("classes", 0.4),
    "lfl": ("permuted", 0.05),
    "mas": ("permuted", 0.08),
    "mer": ("permuted", 0.15),
    "mir": ("classes", 0.4),
    "ncm": ("classes", 0.5),
    "rar": ("permuted", 0.15),
    "rwalk": ("permuted", 0.08),
    "scr": ("classes", 0.5),
    "slda": ("classes", 0.5),
}
"""The stream on which each is to beat naive training at the same rate, and by how much (ACC, seed 0)."""


def job(name: str, stream: str, out: Path, **changes: Any) -> Job:
    benchmark, dataset, settings = STREAMS[stream]
    (found,) = plan(benchmark, [name], [0], settings | SMALL | changes, dataset, out=out)
    return found


def trained(name: str, stream: str, out: Path, **changes: Any) -> dict[str, Any]:
    outcome = perform(job(name, stream, out, **changes))
    assert outcome.failure is None, outcome.failure
    assert outcome.record is not None
    return outcome.record


@pytest.fixture(scope="module")
def naive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, float], float]:
    """ACC of naive training on a stream at a rate."""

    @cache
    def accuracy(stream: str, lr: float) -> float:
        record = trained("naive", stream, tmp_path_factory.mktemp("naive"), **{"optimizer.lr": lr})
        return float(record["metrics"]["ACC"])

    return accuracy


@pytest.mark.parametrize("name", GAINS)
def test_a_strategy_beats_naive_training_and_prints_nothing(
    name: str, naive: Callable[[str, float], float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stream, gain = GAINS[name]
    lr = load_strategy(name).model_dump()["optimizer"]["lr"]
    assert trained(name, stream, tmp_path)["metrics"]["ACC"] > naive(stream, lr) + gain
    printed = capfd.readouterr()
    assert printed.err == ""
    assert printed.out == ("Using the Pseudo-Prototypical-Proxy loss for CoPE.\n" if name == "cope" else "")


def test_packnet_forgets_nothing(naive: Callable[[str, float], float], tmp_path: Path) -> None:
    """With known tasks naive training forgets next to nothing here, so that no gain over it can be asked for."""
    record = trained("packnet", "tasks", tmp_path)
    assert record["metrics"]["BWT"] == 0
    assert record["metrics"]["learning_accuracy"] > 0.85
    assert naive("tasks", 0.1) > 0.95


PARAMETERS = 64 * 32 + 32 + 32 * 10 + 10


@pytest.mark.parametrize(
    ("name", "stream", "numbers"),
    [
        ("mas", "permuted", 2 * PARAMETERS),  # weights and their importances
        ("rwalk", "permuted", 4 * PARAMETERS),  # weights, running Fisher, scores, penalties
        ("lfl", "permuted", PARAMETERS),  # the network before
        ("slda", "classes", 4 * 32 + 4 + 32 * 32),  # class means, counts, covariance
        ("packnet", "tasks", (64 * 32 + 32 * 2) / 4 + 2),  # a byte a weight, a count a layer
    ],
)
def test_memory_is_what_the_method_needs(name: str, stream: str, numbers: float, tmp_path: Path) -> None:
    found = trained(name, stream, tmp_path, **{"stream.tasks": 2, "training.epochs": 2})
    assert found["diagnostics"]["memory_bytes"][-1] == 4 * numbers


EXAMPLE = 64 + 1 + 1 + 4
"""Bytes of a stored digit: its pixels, its label, its task's, its number in the reservoir."""


@pytest.mark.parametrize(
    ("name", "stream", "knob", "bytes_each"),
    [
        ("der", "permuted", "template.mem_size", EXAMPLE + 4 * 10),
        ("er-ace", "permuted", "template.mem_size", EXAMPLE),
        ("er-aml", "permuted", "template.mem_size", EXAMPLE),
        ("mer", "permuted", "template.mem_size", EXAMPLE),
        ("scr", "classes", "template.mem_size", EXAMPLE),
        ("icarl", "classes", "template.memory_size", 64 + 4),  # and its rank
        ("feature-replay", "classes", "template.mem_size", EXAMPLE - 64 + 4 * 32),
        ("mir", "classes", "plugins.0.mem_size", EXAMPLE),
        ("gss", "classes", "plugins.0.mem_size", 64 + 1 + 4),  # and its score
        ("rar", "permuted", "plugins.0.mem_size", EXAMPLE),
        ("cope", "permuted", "plugins.0.mem_size", EXAMPLE),
        ("gdumb", "permuted", "plugins.0.mem_size", EXAMPLE),
    ],
)
def test_stored_examples_are_counted_and_sized_by_the_recipes_knob(
    name: str, stream: str, knob: str, bytes_each: int, tmp_path: Path
) -> None:
    changes = {"stream.tasks": 2, "training.epochs": 1}
    kept = {}
    for size in (200, 400):
        record = trained(name, stream, tmp_path / str(size), **changes, **{knob: size})
        kept[size] = record["diagnostics"]["memory_bytes"][-1]
    if name != "gss":  # its rehearsal would fail
        assert load_strategy(name).model_dump()["memory"]["knob"] == knob
    assert kept[400] - kept[200] == pytest.approx(200 * bytes_each, rel=0.01)


def test_a_template_takes_options_which_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown option of template DER 'mem_sise'; did you mean 'mem_size'"):
        job("der", "permuted", tmp_path, **{"template.mem_sise": 3}).run()
    with pytest.raises(UserError, match="'template.alpha' of strategy 'der' is a number, 1.0; got 'much'"):
        job("der", "permuted", tmp_path, **{"template.alpha": "much"}).run()
    wrong = {"criterion": {"use": "avalanche.training.losses:MaskedCrossEntropy", "masks": "new"}}
    changes = {f"template.{name}": value for name, value in wrong.items()}
    with pytest.raises(UserError, match="'masks'; did you mean 'mask'"):
        job("feature-replay", "classes", tmp_path, **changes).run()
    run: Any = job("der", "permuted", tmp_path, **{"template.mem_size": 7, "template.beta": 2}).run()
    assert (run.learner.mem_size, run.learner.beta, run.learner.alpha) == (7, 2, 1.0)
    assert run.learner.batch_size_mem == 16  # as many stored examples as new ones, unless the recipe says otherwise
    more: Any = job("der", "permuted", tmp_path, **{"template.batch_size_mem": 5}).run()
    assert more.learner.batch_size_mem == 5


def test_a_template_is_a_table(tmp_path: Path) -> None:
    recipe = tmp_path / "old.toml"
    recipe.write_text(
        'summary = "x"\nsource = "x"\ntemplate = "avalanche.training.supervised:DER"\n'
        '[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.1\n'
    )
    with pytest.raises(UserError, match="'template': .* got 'avalanche.tr.*upervised:DER'"):
        load_strategy(str(recipe))


@pytest.mark.parametrize("name", list_recipes("strategies"))
def test_a_strategy_is_refused_streams_it_cannot_learn(name: str, tmp_path: Path) -> None:
    learns = load_strategy(name).model_dump()["scenarios"]
    assert learns
    for scenario in ("domain", "class", "task"):
        changes = {"stream.scenario": scenario}
        if scenario in learns:
            plan("split-mnist", [name], [0], changes, "digits", out=tmp_path)[0].run()
        else:
            with pytest.raises(
                UserError, match=f"'{re.escape(name)}' cannot run on .* this one is {scenario}-incremental"
            ):
                plan("split-mnist", [name], [0], changes, "digits", out=tmp_path)


# What docs/strategies.md says of those without a recipe, and of the streams that some are refused.


def own(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.toml"
    path.write_text(f'summary = "x"\nsource = "x"\n{text}\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.1\n')
    return str(path)


def test_mir_replays_nothing_where_classes_come_back(tmp_path: Path) -> None:
    name = own(tmp_path, '[[plugins]]\nuse = "avalanche.training.plugins:MIRPlugin"\nmem_size = 50')
    run: Any = job(name, "permuted", tmp_path, **{"training.epochs": 1, "training.batch_size": 64}).run()
    replayed = []
    plugin = next(p for p in run.plugins if isinstance(p, MIRPlugin))
    for experience in run.stream.train_stream[:2]:
        torch.manual_seed(0)
        run.learner.train(experience, eval_streams=[])
        replayed.append(plugin.replay_loader is not None)
    assert replayed == [False, False]


def test_bic_fits_neither_this_avalanche_nor_this_torch(tmp_path: Path) -> None:
    name = own(tmp_path, '[[plugins]]\nuse = "avalanche.training.plugins:BiCPlugin"\nmem_size = 100')
    failure = perform(job(name, "classes", tmp_path, **{"training.epochs": 1})).failure
    assert failure is not None
    assert "'dataset' of 'DatasetExperience' object has no setter" in failure
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(TypeError, match="verbose"):  # as it asks for its scheduler
        torch.optim.lr_scheduler.MultiStepLR(sgd, milestones=[50], verbose=False)  # type: ignore[call-arg]


def test_pnn_cannot_be_evaluated_on_tasks_to_come() -> None:
    stream = build_stream("split", load_dataset("digits", None), 0, scenario="task")
    model = PNN(in_features=64, hidden_features_per_column=5)
    for experience in stream.test_stream:  # as the accuracies before training need it
        avalanche_model_adaptation(model, experience)
    first = model.layers[0].columns[0]
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_la_maml_starts_from_weights_of_its_own() -> None:
    model = torch.nn.Linear(4, 3)
    before = model.weight.clone()
    LaMAML(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert not torch.equal(model.weight, before)


def test_runs_that_cannot_be_resumed_say_so(tmp_path: Path) -> None:
    for name in ("cope", "feature-replay", "rar"):
        found = job(name, "classes", tmp_path, **{"training.epochs": 1, "stream.tasks": 2})
        found.folder.prepare()
        with pytest.warns(UserWarning, match="this run cannot be resumed"):
            found.run().run(found.folder, Silent())

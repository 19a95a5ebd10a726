"""Runs on colour images, in the true formats of their files, with the networks and data that recipes name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formats import write_cifar10, write_cifar100, write_svhn, write_tiny_imagenet

from ong.cli import main
from ong.errors import UnknownNameError, UserError
from ong.experiments.continual import ContinualRun
from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan
from ong.experiments.progress import Silent
from ong.experiments.recipes import list_recipes, load_benchmark
from ong.streams import output_count, stored

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
SMALL: dict[str, Any] = {
    "model.channels": 4, "model.blocks": [1], "stream.tasks": 2, "training.epochs": 1, "training.batch_size": 20,
}  # fmt: skip
CIFAR = SMALL | {"dataset": {"name": "cifar100", "size": 8}}


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data root with a CIFAR-100 of ten training and four test images a class."""
    root = tmp_path_factory.mktemp("data")
    write_cifar100(root, 1000, 400)
    return root


def job(benchmark: str, strategy: str, data_root: Path | None, out: Path, **changes: Any) -> Job:
    (found,) = plan(benchmark, [strategy], [0], changes, None, data_root, out)
    return found


def record(*arguments: Any, **changes: Any) -> dict[str, Any]:
    done = perform(job(*arguments, **changes))
    assert done.record is not None, done.failure
    return done.record


@pytest.mark.slow
def test_split_cifar100_runs_from_the_command_line_with_resnet18(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["model.channels=4", "stream.tasks=2", "training.epochs=1", "stream.classes_per_task=2"]
    words = (
        f"ong run split-cifar100 ogd ong-prior --set model.name=resnet18 --data-root {cifar} --jobs 1 --out {tmp_path}"
    )
    monkeypatch.setattr(sys, "argv", [*words.split(), *(part for s in settings for part in ("--set", s))])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == 0
    printed = capsys.readouterr().out
    for strategy in ("ogd", "ong-prior"):
        assert strategy in printed
        assert (tmp_path / "split-cifar100" / strategy / "seed-0" / "record.json").exists()


@pytest.mark.slow
def test_resnet18_of_full_width_learns_beside_what_ogd_stores(tmp_path: Path) -> None:
    write_cifar100(tmp_path, 12, 6, classes=6)
    settings = {"dataset": {"name": "cifar100", "size": 8}, "model.name": "resnet18", "optimizer.lr": 1e-3, "stream.tasks": 2, "stream.classes_per_task": 3, "stream.shuffle_classes": False,
                "training.epochs": 1, "training.batch_size": 3, "plugins.0.directions_per_task": 2}  # fmt: skip
    found = record("split-cifar100", "ogd", tmp_path, tmp_path / "out", **settings)
    assert found["diagnostics"]["directions"] == [2, 4]


LEARNED = CIFAR | {"model.blocks": [1, 1], "training.epochs": 12, "optimizer.lr": 0.05}


@pytest.mark.parametrize("strategy", ["ogd", "ong-prior"])
@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_every_scenario_of_split_cifar100_is_learned_and_protected(
    cifar: Path, tmp_path: Path, scenario: str, strategy: str
) -> None:
    benchmark = "split-cifar100" + ("" if scenario == "task" else f"-{scenario}")
    found = record(benchmark, strategy, cifar, tmp_path, **LEARNED)
    assert found["accuracy_matrix"][1][0] > 0.25  # of 40 images; by chance 0.1, or 0.01 among all classes
    assert found["diagnostics"]["leak"][1] < 0.01  # float32
    run = made(job(benchmark, strategy, cifar, tmp_path, **LEARNED))
    assert run.stream.train_stream[0].dataset[0][0].shape == (3, 8, 8)
    last = [module for module in run.learner.model.modules() if isinstance(module, torch.nn.Linear)][-1]
    assert last.out_features == output_count(run.stream)
    assert (output_count(run.stream) > 20) == (scenario == "class")


def test_without_protection_steps_on_split_cifar100_leak(cifar: Path, tmp_path: Path) -> None:
    assert record("split-cifar100", "naive", cifar, tmp_path, **LEARNED)["diagnostics"]["leak"][1] > 0.05


def test_joint_training_has_all_heads_from_the_start(cifar: Path, tmp_path: Path) -> None:
    matrix = record("split-cifar100", "joint", cifar, tmp_path, **LEARNED)["accuracy_matrix"]
    assert min(matrix[-1]) > 0.25


def test_a_growing_head_is_protected_and_resumed(cifar: Path, tmp_path: Path) -> None:
    settings = CIFAR | {"model.head": "growing", "stream.tasks": 3}
    found = record("split-cifar100-class", "ogd", cifar, tmp_path / "whole", **settings)
    assert found["diagnostics"]["leak"][2] < 0.01
    assert found["benchmark"]["model"]["head"] == "growing"
    assert_resumed_is_the_same(found, job("split-cifar100-class", "ogd", cifar, tmp_path / "killed", **settings))


class Killed(BaseException):
    """Nothing in a run may catch it."""


class KillInTask(Silent):
    """Kills a run three steps into the next task."""

    def __init__(self) -> None:
        self.done, self.steps = 0, 0

    def end_task(self) -> None:
        self.done += 1

    def step(self) -> None:
        self.steps += self.done
        if self.steps == 3:
            raise Killed


def assert_resumed_is_the_same(whole: dict[str, Any], killed: Job) -> None:
    with pytest.raises(Killed):
        perform(killed, KillInTask())
    assert killed.folder.record() is None
    resumed = perform(killed).record
    assert resumed is not None
    assert {k: v for k, v in resumed.items() if k != "timing"} == {k: v for k, v in whole.items() if k != "timing"}


@pytest.mark.parametrize("strategy", ["replay", "ogd"])
def test_augmentation_changes_training_and_is_the_same_when_resumed(cifar: Path, tmp_path: Path, strategy: str) -> None:
    found = record("split-cifar100", strategy, cifar, tmp_path / "with", **CIFAR)
    without = record("split-cifar100", strategy, cifar, tmp_path / "without", **CIFAR | {"training.augment": []})
    assert found["accuracy_matrix"][0] == without["accuracy_matrix"][0]  # evaluation sees images as they are
    assert (
        found["diagnostics"]["steps"] != without["diagnostics"]["steps"]
        or found["accuracy_matrix"] != without["accuracy_matrix"]
    )
    assert "augment" not in without["benchmark"]["training"]
    assert_resumed_is_the_same(found, job("split-cifar100", strategy, cifar, tmp_path / "killed", **CIFAR))


def test_an_unknown_augmentation_or_option_of_one_is_named(cifar: Path, tmp_path: Path) -> None:
    for augment, message in (
        (["flipp"], "unknown augmentation 'flipp'; did you mean 'flip'"),
        ([{"use": "torchvision.transforms.v2:RandomRotation", "degree": 3}], "did you mean 'degrees'"),
    ):
        with pytest.raises(UserError, match=message):
            made(job("split-cifar100", "naive", cifar, tmp_path, **SMALL | {"training.augment": augment}))


def test_an_augmentation_takes_numbers_of_any_kind(cifar: Path, tmp_path: Path) -> None:
    turned = {"use": "torchvision.transforms.v2:RandomRotation"}
    for degrees in (10, 2.5, [-10, 10]):
        made(
            job(
                "split-cifar100",
                "naive",
                cifar,
                tmp_path,
                **SMALL | {"training.augment": [turned | {"degrees": degrees}]},
            )
        )
    with pytest.raises(UserError, match="'degrees'.*got 'ten'"):
        made(
            job(
                "split-cifar100",
                "naive",
                cifar,
                tmp_path,
                **SMALL | {"training.augment": [turned | {"degrees": "ten"}]},
            )
        )


def made(of: Job) -> ContinualRun:
    return ContinualRun(of.benchmark, of.strategy, of.seed, of.data_root)  # type: ignore[arg-type]


def test_a_task_may_come_in_pieces_and_is_kept_as_a_whole(tmp_path: Path) -> None:
    settings = {"training.online": 50, "training.epochs": 1, "stream.tasks": 2, "training.batch_size": 10}
    found = record("permuted-digits", "ogd", None, tmp_path / "whole", **settings)
    assert found["diagnostics"]["directions"] == [100, 200]
    assert len(found["accuracy_matrix"]) == 3
    assert found["accuracy_matrix"][1][0] > 0.7
    assert found["diagnostics"]["leak"][1] < 0.01
    assert found["benchmark"]["training"]["online"] == 50
    assert_resumed_is_the_same(found, job("permuted-digits", "ogd", None, tmp_path / "killed", **settings))


def test_pieces_of_a_task_that_is_told_have_its_label(tmp_path: Path) -> None:
    settings = {"dataset": "digits", "training.online": 50, "training.epochs": 1, "stream.tasks": 3}
    of = job("split-mnist-task", "ogd", None, tmp_path, **settings)
    assert {(piece.task_label, *piece.task_labels) for piece in made(of)._experiences(2)} == {(2, 2)}
    outcome = perform(of)
    assert outcome.record is not None, outcome.failure
    assert sum(outcome.record["accuracy_matrix"][3]) / 3 > 0.8  # .5 is chance: two labels a task


class Steps(Silent):
    def __init__(self) -> None:
        self.announced: list[int] = []
        self.seen = 0

    def start_task(self, steps: int) -> None:
        self.announced.append(steps)

    def step(self) -> None:
        self.seen += 1


def test_the_pieces_of_a_task_hold_each_example_once_and_are_announced_once(tmp_path: Path) -> None:
    settings = {"training.online": 50, "training.epochs": 1, "stream.tasks": 2, "training.batch_size": 10}
    of = job("permuted-digits", "naive", None, tmp_path, **settings)
    run = made(of)
    pieces = run._experiences(1)
    rows = torch.cat([torch.stack([item[0] for item in piece.dataset]) for piece in pieces]).flatten(1)
    whole = torch.stack([item[0] for item in run.stream.train_stream[1].dataset]).flatten(1)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, whole.tolist()))
    assert not torch.equal(rows, whole)
    steps = Steps()
    perform(of, steps)
    assert steps.announced == [5 * 29, 5 * 29]  # 1442 examples in 29 pieces of 5 batches, the last one shorter
    assert steps.seen == 2 * (5 * 28 + 5)


@pytest.mark.parametrize(
    ("benchmark", "write"),
    [
        ("split-cifar10", write_cifar10),
        ("split-cifar10-class", write_cifar10),
        ("split-tiny-imagenet", write_tiny_imagenet),
    ],
)
def test_other_recipes_run_on_files_in_the_true_format(tmp_path: Path, benchmark: str, write: Any) -> None:
    write(tmp_path)
    settings = SMALL | ({"stream.classes_per_task": 1} if "tiny" in benchmark else {})
    assert len(record(benchmark, "naive", tmp_path, tmp_path / "out", **settings)["accuracy_matrix"]) == 3


def test_images_that_are_streamed_from_files_train_to_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_imagenet(tmp_path, classes=4, each=6)
    settings = SMALL | {"stream.classes_per_task": 2, "training.batch_size": 5}
    found = []
    for where, fits in (("held", True), ("streamed", False)):
        monkeypatch.setattr(stored, "fits_in_memory", lambda size, fits=fits: fits)
        monkeypatch.setattr("ong.streams.map_style.fits_in_memory", lambda size, fits=fits: fits)
        found.append(record("split-tiny-imagenet", "ogd", tmp_path, tmp_path / where, **settings))
        del found[-1]["timing"]
    assert found[0] == found[1]


def test_a_sequence_of_data_sets_runs_with_a_list(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    path = tmp_path / "pair.toml"
    path.write_text(
        'summary = "two"\nkind = "continual"\ndataset = ["digits", { name = "svhn" }]\n'
        'stream = { name = "sequence", scenario = "class", size = 8 }\nmodel = { name = "mlp", hidden = [16] }\n'
        "training = { epochs = 1, batch_size = 32 }\n"
    )
    found = record(str(path), "ogd", tmp_path, tmp_path / "out", **{"training.validation": True})
    assert found["benchmark"]["dataset"][0] == "digits"
    assert np.array(found["accuracy_matrix"]).shape == (3, 2)


def test_another_data_set_makes_another_benchmark_whatever_its_form(tmp_path: Path) -> None:
    changes = {"dataset": {"name": "digits", "size": 6}}
    assert job("permuted-mnist", "naive", None, tmp_path, **changes).benchmark.name == "permuted-mnist-digits"
    assert job("permuted-digits", "naive", None, tmp_path, **{"stream.tasks": 2}).benchmark.name == "permuted-digits"
    changes = {"dataset": {"use": "mine:Bars"}}
    assert job("permuted-mnist", "naive", None, tmp_path, **changes).benchmark.name == "permuted-mnist-Bars"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"name": "cifar100", "label": "fine"}, "option of data set 'cifar100' 'label'; did you mean 'labels'"),
        ({"name": "cifar"}, "unknown data set 'cifar'; did you mean 'cifar10"),
        ({}, "dataset: give either 'name' .* or 'use'"),
        ({"use": "torchvision.datasets:FakeDatas"}, "did you mean 'FakeData'"),
        ({"use": "torchvision.datasets:FakeData"}, "has neither a parameter 'train' nor 'split'"),
        (
            {"use": "torchvision.datasets:FakeData", "train": {"size": 3, "image_sizes": 1}, "test": {}},
            "did you mean 'image_size'",
        ),
        ({"use": "torchvision.datasets:FakeData", "train": 3}, "'train' must be a table"),
        ({"use": "torchvision.datasets:CIFAR10"}, "dataset CIFAR10: .*missing 1 required positional argument: 'root'"),
        (3, "'dataset': give a data set's name, a table with 'name' or 'use', or a list of these, got 3"),
    ],
)
def test_wrong_data_sets_are_named(tmp_path: Path, dataset: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(job("permuted-digits", "naive", None, tmp_path, dataset=dataset))


def test_a_data_set_of_torchvision_may_have_options_for_each_part(tmp_path: Path) -> None:
    shared = {"use": "torchvision.datasets:FakeData", "image_size": [3, 8, 8], "num_classes": 4}
    dataset = shared | {"train": {"size": 40}, "test": {"size": 20, "random_offset": 9}, "classes": 4}
    found = record("permuted-digits", "naive", None, tmp_path, dataset=dataset, **{"stream.tasks": 2})
    assert found["benchmark"]["dataset"]["num_classes"] == 4


def test_recipes_with_cifar_and_tiny_imagenet_have_networks_and_streams_that_exist() -> None:
    names = {
        name for name in list_recipes("benchmarks") if re.match("split-(cifar|tiny|fashion)|permuted-mnist-full", name)
    }
    assert names == {
        "split-cifar10", "split-cifar10-class", "split-cifar100", "split-cifar100-20", "split-cifar100-class",
        "split-cifar100-domain", "split-tiny-imagenet", "split-fashion", "split-fashion-slim-resnet18",
        "split-fashion-vit-tiny", "permuted-mnist-full",
    }  # fmt: skip
    for name in names - {"split-fashion", "permuted-mnist-full"}:
        recipe: Any = load_benchmark(name)
        assert recipe.model.name in ("slim-resnet18", "vit-tiny")
        sizes = {"cifar10": 10, "cifar100": 100, "tiny-imagenet": 200, "fashion-mnist": 10}
        assert (
            recipe.stream.options["tasks"] * recipe.stream.options.get("classes_per_task", 2) == sizes[recipe.dataset]
        )


def test_the_pages_example_of_ones_own_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    for name, content in re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", text, re.DOTALL):
        Path(name).write_text(content)
    (command,) = re.findall(r"^ong run bars.*$", text, re.MULTILINE)
    monkeypatch.setattr(sys, "argv", [*command.split(), "--jobs", "1"])
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == 0, capsys.readouterr().err
    for strategy in ("naive", "ogd", "ong-prior"):
        assert (tmp_path / "runs" / "bars" / strategy / "seed-0" / "record.json").exists()
    found = record("bars.toml", "ogd", None, tmp_path / "again", **{"model.width": 64, "dataset.size": 6})
    matrix = np.array(found["accuracy_matrix"])
    assert matrix.shape == (4, 3)  # three tasks of four classes
    assert min(matrix[k + 1, k] for k in range(3)) > 0.6  # 0.25 by chance
    with pytest.raises(UnknownNameError, match="option of model Net 'widht'; did you mean 'width'"):
        made(job("bars.toml", "ogd", None, tmp_path, **{"model.widht": 64}))


def test_every_form_of_the_page_is_a_recipe(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.*)` \| ", text.partition("## `dataset`")[2].partition("## `stream`")[0], re.MULTILINE)
    assert len(rows) == 6
    for row in rows:
        path = tmp_path / "row.toml"
        path.write_text(
            f'summary = "a"\nkind = "continual"\ndataset = {row}\nstream = {{ name = "split" }}\nmodel = {{ name = "mlp" }}\ntraining = {{ epochs = 1, batch_size = 1 }}\n'
        )
        load_benchmark(str(path))


def test_the_list_shows_data_sets_streams_and_networks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ong", "list"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == 0
    printed = capsys.readouterr().out
    for name in ("split-cifar100-class", "tiny-imagenet", "image-folder", "sequence", "vit-tiny", "slim-resnet18"):
        assert f"\n{name} " in printed

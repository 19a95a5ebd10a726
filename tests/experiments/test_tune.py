"""What a search may choose by, and where it looks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ong.errors import UserError
from ong.experiments import continual
from ong.experiments.plan import plan
from ong.experiments.ranges import read_range, widened
from ong.experiments.sweep import perform
from ong.experiments.tune import tune
from ong.streams import ImageDataset, load_dataset

SETTINGS = {"training.epochs": 1, "stream.tasks": 2}
RECIPE = 'summary = "s"\nsource = "s"\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.02\n[search]\n"optimizer.lr" = '


def written(folder: Path, space: str) -> str:
    (folder / "mine.toml").write_text(RECIPE + space + "\n")
    return str(folder / "mine.toml")


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def with_test_images(value: int) -> Any:
    """Load data sets whose test images are of one grey and one class."""

    def load(name: str, data_root: Path | None = None) -> ImageDataset:
        found = load_dataset(name, data_root)
        test = torch.full_like(found.test_images, value)
        return replace(found, test_images=test, test_labels=torch.zeros_like(found.test_labels))

    return load


def test_the_validation_part_is_a_fixed_sixth_of_the_training_images() -> None:
    whole = load_dataset("mnist-10k")
    part, again = whole.for_validation(), load_dataset("mnist-10k").for_validation()
    assert (len(part.train_images), len(part.test_images)) == (8000 - 1333, 1333)
    assert not rows(part.train_images) & rows(part.test_images)  # no image occurs twice in this data set
    assert rows(part.train_images) | rows(part.test_images) == rows(whole.train_images)
    assert not rows(part.test_images) & rows(whole.test_images)
    assert torch.equal(part.test_images, again.test_images)
    labels = {i.numpy().tobytes(): int(y) for i, y in zip(whole.train_images, whole.train_labels, strict=True)}
    for images, given in ((part.train_images, part.train_labels), (part.test_images, part.test_labels)):
        assert [labels[image.numpy().tobytes()] for image in images] == given.tolist()
    shares = torch.bincount(part.test_labels) / torch.bincount(whole.train_labels)
    assert shares.sub(1 / 6).abs().max() < 0.03  # three standard deviations of 133 draws of 800


def test_too_few_images_to_hold_some_out_are_an_error() -> None:
    few = load_dataset("digits")
    few = replace(few, train_images=few.train_images[:5], train_labels=few.train_labels[:5])
    with pytest.raises(UserError, match="5 training images, expected at least 6"):
        few.for_validation()


@pytest.mark.parametrize("benchmark", ["permuted-digits", "split-mnist"])
def test_no_test_image_reaches_a_search(benchmark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = written(tmp_path, "{ low = 0.01, high = 0.1, log = true }")
    found = []
    for grey in (0, 200):
        monkeypatch.setattr(continual, "load_dataset", with_test_images(grey))
        settings = SETTINGS | {"dataset": "digits"}
        found.append(tune(benchmark, recipe, 2, changes=settings, out=tmp_path / str(grey)).trials)
    assert found[0] == found[1]
    assert all(0 < trial.score < 1 for trial in found[0])
    (job,) = plan("permuted-digits", [recipe], [1000], SETTINGS, out=tmp_path)
    assert job.benchmark.settings()["training"]["validation"] is False
    assert perform(job).record["accuracy_matrix"][1] in ([0, 0], [1, 1])  # a run is judged by the grey test images


def test_a_searched_run_trains_on_the_rest_and_says_so(tmp_path: Path) -> None:
    recipe = written(tmp_path, "{ choices = [0.02] }")
    search = tune("permuted-digits", recipe, 1, changes=SETTINGS, out=tmp_path / "tuning")
    (path,) = tmp_path.glob("tuning/*/permuted-digits/mine/seed-1000/record.json")
    record = json.loads(path.read_text())
    assert record["benchmark"]["training"]["validation"] is True
    assert record["metrics"]["ACC"] == search.trials[0].score
    (job,) = plan("permuted-digits", [recipe], [0], SETTINGS | {"training.validation": True}, out=tmp_path)
    run = job.run()
    assert [len(e.dataset) for e in run.stream.train_stream] == [1442 - 240] * 2
    assert [len(e.dataset) for e in run.stream.test_stream] == [240] * 2
    pixels = torch.stack([run.stream.train_stream[0].dataset[i][0] for i in range(1442 - 240)])
    assert float(pixels.mean()) == pytest.approx(0, abs=1e-4)  # normalised by the images trained on, in float32
    assert float(pixels.std()) == pytest.approx(1, abs=1e-3)


def test_what_a_search_sets_cannot_be_set(tmp_path: Path) -> None:
    recipe = written(tmp_path, "{ low = 0.01, high = 0.1, log = true }")
    for key, value in (("training.validation", False), ("optimizer.lr", 0.1)):
        with pytest.raises(UserError, match=f"--set {key}: the search sets this itself"):
            tune("permuted-digits", recipe, 1, changes={key: value}, out=tmp_path)


def test_values_tuned_before_do_not_begin_a_search(tmp_path: Path) -> None:
    recipe = written(tmp_path, "{ low = 0.01, high = 0.1, log = true }")
    before = tune("permuted-digits", recipe, 2, changes=SETTINGS, out=tmp_path / "tuning")
    with (tmp_path / "mine.toml").open("a") as file:
        file.write('[on.permuted-digits]\n"optimizer.lr" = 0.09\n')
    assert tune("permuted-digits", recipe, 2, changes=SETTINGS, out=tmp_path / "tuning") == before
    assert 0.02 in [trial.values["optimizer.lr"] for trial in before.trials]


def test_a_range_is_widened_by_a_third_of_its_length_where_the_best_lies_at_an_end() -> None:
    space = {
        "low": read_range("low", {"low": 0.001, "high": 1.0, "log": True}),
        "high": read_range("high", {"low": 0.001, "high": 1.0, "log": True}),
        "middle": read_range("middle", {"low": 0.001, "high": 1.0, "log": True}),
        "count": read_range("count", {"low": 8, "high": 64, "log": True}),
        "share": read_range("share", {"low": 0.8, "high": 0.999}),
        "choice": read_range("choice", {"choices": [1, 2, 3]}),
    }
    best = {"low": 0.0012, "high": 0.8, "middle": 0.1, "count": 64, "share": 0.999, "choice": 3}
    found = widened(space, best)
    assert (found["low"].low, found["low"].high) == (0.0001, 1.0)
    assert (found["high"].low, found["high"].high) == (0.001, 10.0)
    assert (found["count"].low, found["count"].high) == (8, 128)
    assert [key for key in space if found[key] == space[key]] == ["middle", "share", "choice"]


def test_a_search_goes_beyond_its_range_within_the_same_number_of_trials(tmp_path: Path) -> None:
    recipe = written(tmp_path, "{ low = 0.001, high = 0.02, log = true }")
    search = tune("permuted-digits", recipe, 6, changes=SETTINGS, out=tmp_path / "tuning")
    assert len(search.trials) == 6
    assert search.trials[0].values["optimizer.lr"] > 0.02
    notes = search.notes()
    assert notes[0].startswith("optimizer.lr: searched in 0.001 … ")
    assert notes[0].endswith("widened from 0.001 … 0.02")
    assert tune("permuted-digits", recipe, 6, changes=SETTINGS, out=tmp_path / "tuning") == search
    assert len(list(tmp_path.glob("tuning/*/permuted-digits/mine/seed-1000/record.json"))) == 6


def test_a_best_at_the_end_of_a_range_is_said_to_be(tmp_path: Path) -> None:
    recipe = written(tmp_path, "{ choices = [0.001, 0.02] }")
    search = tune("permuted-digits", recipe, 4, changes=SETTINGS, out=tmp_path / "tuning")
    (note,) = search.notes()
    assert note.startswith("optimizer.lr: the best lies at the upper end of 0.001, 0.02; widen that range in [search]")

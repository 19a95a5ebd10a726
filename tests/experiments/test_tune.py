"""What a search may choose by, where it looks, and that it goes on where it was."""

from __future__ import annotations

import json
import re
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.storages import RDBStorage

from ong.errors import UserError, WorkStoppedError
from ong.experiments import learner, tune_drive
from ong.experiments import tune as tune_module
from ong.experiments.jobs import Job, Outcome, perform
from ong.experiments.plan import plan
from ong.experiments.ranges import read_range, widened
from ong.experiments.tune import Search, tune
from ong.experiments.tune_points import STARTUP, medians, next_point, wave_of
from ong.experiments.tune_problem import Asked
from ong.experiments.tune_prune import WatchedJob, course
from ong.files import is_there
from ong.report.studies import STUDIES, Trial, read_studies
from ong.streams import ImageDataset, load_dataset

SETTINGS = {"training.epochs": 1, "stream.tasks": 2}
RECIPE = 'summary = "s"\nsource = "s"\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.02\n[search]\n"optimizer.lr" = '
RANGE = "{ low = 0.001, high = 0.03, log = true }"


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
        monkeypatch.setattr(learner, "load_dataset", with_test_images(grey))
        settings = SETTINGS | {"dataset": "digits"}
        (search,) = tune(Asked(benchmark, [recipe], 2, changes=settings, out=tmp_path / str(grey)))
        found.append([replace(trial, seconds=0.0) for trial in search.trials])
    assert found[0] == found[1]
    assert all(0 < trial.score < 1 for trial in found[0])
    (job,) = plan("permuted-digits", [recipe], [1000], SETTINGS, out=tmp_path)
    assert job.benchmark.settings()["training"]["validation"] is False
    assert perform(job).record["accuracy_matrix"][1] in ([0, 0], [1, 1])  # a run is judged by the grey test images


def test_a_searched_run_trains_on_the_rest_and_says_so(tmp_path: Path) -> None:
    recipe = written(tmp_path, "{ choices = [0.02] }")
    (search,) = tune(Asked("permuted-digits", [recipe], 1, changes=SETTINGS, out=tmp_path / "tuning"))
    (path,) = tmp_path.glob("tuning/trial-0/permuted-digits/mine/seed-1000/record.json")
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
            tune(Asked("permuted-digits", [recipe], 1, changes={key: value}, out=tmp_path))


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


def lr_of(job: Job) -> float:
    return float(job.strategy.optimizer.options["lr"])  # type: ignore[attr-defined]


def played(job: Job) -> Outcome:
    """A run that takes no time: the best rate is .3, above 1 it diverges, each seed is a little worse than the last."""
    lr = lr_of(job)
    if lr > 1:
        job.folder.prepare()
        job.folder.save_failure({"strategy": "mine", "seed": job.seed, "message": "the loss is nan"})
        return Outcome(job, None, failure="the loss is nan", place={"task": 0})
    score = 0.9 - abs(lr - 0.3) - 0.01 * (job.seed - 1000)
    rows = [[0.1, 0.1], [score, 0.1], [score, score]]
    return Outcome(job, {"metrics": {"ACC": score}, "accuracy_matrix": rows, "timing": {"total_seconds": 2.0}})


class PlayedWorkers:
    """Workers whose runs are over at once, the last asked for first."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> PlayedWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, job: Job) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(played(job))
        return future


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Search with runs that take no time; returns what asks for a search in a folder of its own."""
    monkeypatch.setattr(tune_drive, "attempt", played)
    monkeypatch.setattr(tune_module, "check", lambda job: None)
    monkeypatch.setattr(tune_module, "Workers", PlayedWorkers)
    recipe = written(tmp_path, RANGE)

    def asked(out: str, trials: int, **options: Any) -> Asked:
        return Asked("permuted-digits", [recipe], trials, changes=SETTINGS, out=tmp_path / out, **options)

    return asked


def told(searches: list[Search]) -> str:
    """All that a search found; NaN is unlike itself."""
    return repr([(search.trials, search.space) for search in searches])


def test_a_search_goes_beyond_its_range_within_the_same_number_of_trials(play: Any) -> None:
    (search,) = tune(play("a", 12))
    assert len(search.trials) == 12
    assert search.best.values["optimizer.lr"] > 0.1
    assert search.notes()[0].startswith("optimizer.lr: searched in 0.001 … ")
    assert search.notes()[0].endswith("widened from 0.001 … 0.03")


def test_a_best_at_the_end_of_a_range_is_said_to_be(play: Any, tmp_path: Path) -> None:
    written(tmp_path, "{ choices = [0.001, 0.02] }")
    (note,) = tune(play("a", 4))[0].notes()
    assert note.startswith("optimizer.lr: the best lies at the upper end of 0.001, 0.02; widen that range in [search]")
    written(tmp_path, "{ low = 0.001, high = 0.02, log = true }")
    assert "more --trials look further" in tune(play("b", 4))[0].notes()[-1]


def test_a_search_with_more_trials_goes_on_where_it_ended(play: Any) -> None:
    seen: list[int] = []
    short, whole = tune(play("a", 6)), tune(play("b", 11))
    longer = tune(play("a", 11), listener=lambda problem, trial: seen.append(trial.number))
    assert told(longer) == told(whole)
    assert seen == list(range(11))
    assert told(tune(play("a", 6))) == told(short)


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_number_of_workers_changes_no_trial(play: Any, at_once: int) -> None:
    options = {"seeds": (1000, 1001), "at_once": at_once}
    assert told(tune(play("a", 9, **options))) == told(tune(play("b", 9, **options), workers=4))


def test_trials_of_one_wave_know_nothing_of_each_other() -> None:
    assert [wave_of(number, 3) for number in (0, 3, 4, 6, 7)] == [
        range(4), range(4), range(4, 7), range(4, 7), range(7, 10),
    ]  # fmt: skip
    space = {"lr": read_range("lr", {"low": 0.001, "high": 1.0, "log": True})}
    known = [Trial(number, {"lr": 0.01 * 3**number}, 0.5 + 0.1 * number) for number in range(STARTUP)]
    first = next_point(4, space, known, [], "higher")
    assert next_point(4, space, known, [], "higher") == first
    assert next_point(5, space, known, [first], "higher") != first
    assert next_point(4, space, known, [], "lower") != first


def test_the_first_points_lie_once_in_each_third_of_every_range() -> None:
    space = {
        "log": read_range("log", {"low": 0.001, "high": 1.0, "log": True}),
        "share": read_range("share", {"low": 0.0, "high": 0.9}),
        "count": read_range("count", {"low": 8, "high": 512, "log": True}),
        "choice": read_range("choice", {"choices": ["a", "b", "c"]}),
    }
    points = [next_point(number, space, [], [], "higher") for number in range(1, STARTUP)]
    assert sorted(point["log"] for point in points) == [0.00316, 0.0316, 0.316]
    assert sorted(point["share"] for point in points) == [0.15, 0.45, 0.75]
    assert sorted(point["count"] for point in points) == [16, 64, 256]
    assert sorted(point["choice"] for point in points) == ["a", "b", "c"]


def test_no_point_repeats_the_recipes_own() -> None:
    space = {"lr": read_range("lr", {"low": 0.003, "high": 0.3, "log": True})}
    points = [{"lr": 0.03}]
    for number in range(1, STARTUP):
        points.append(next_point(number, space, [], points, "higher"))
    assert sorted(point["lr"] for point in points) == [0.00646, 0.03, 0.044, 0.139]


def test_a_folder_of_runs_takes_no_search(tmp_path: Path) -> None:
    (tmp_path / "permuted-digits/naive/seed-0").mkdir(parents=True)
    (tmp_path / "permuted-digits/naive/seed-0/record.json").write_text("{}")
    with pytest.raises(UserError, match="holds runs, and a report of it would show these or the search"):
        tune(Asked("permuted-digits", ["naive"], out=tmp_path))


def test_points_have_three_digits_and_stay_in_their_range() -> None:
    space = {"share": read_range("share", {"low": 0.99951, "high": 0.99962})}
    assert 0.99951 <= next_point(1, space, [], [], "higher")["share"] <= 0.99962


class Killed(BaseException):
    """Stands for a kill."""


WRITES = [
    "create_new_study",
    "set_study_user_attr",
    "create_new_trial",
    "set_trial_user_attr",
    "set_trial_state_values",
]


def test_a_search_killed_at_any_write_ends_as_if_it_had_not_been(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [10**9]

    def deadly(name: str) -> Any:
        write = getattr(RDBStorage, name)

        def counted(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return write(*args, **options)

        return counted

    for name in WRITES:
        monkeypatch.setattr(RDBStorage, name, deadly(name))
    whole = told(tune(play("whole", 6)))
    writes = 10**9 - left[0]
    assert writes >= 20
    for number in range(1, writes + 1, 3):
        left[0] = number
        with pytest.raises(Killed):
            tune(play(f"killed-{number}", 6))
        left[0] = 10**9
        assert told(tune(play(f"killed-{number}", 6))) == whole, number


def test_runs_are_found_again_where_the_file_of_trials_is_lost(tmp_path: Path) -> None:
    asked = Asked("permuted-digits", [written(tmp_path, RANGE)], 2, changes=SETTINGS, out=tmp_path / "tuning")
    before = tune(asked)
    (tmp_path / "tuning" / STUDIES).unlink()
    times = [path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")]
    assert told(tune(asked)) == told(before)
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("record.json")] == times


def test_values_tuned_before_do_not_begin_a_search(play: Any, tmp_path: Path) -> None:
    before = tune(play("a", 2))
    with (tmp_path / "mine.toml").open("a") as file:
        file.write('[on.permuted-digits]\n"optimizer.lr" = 0.09\n')
    assert told(tune(play("a", 2))) == told(before)
    assert before[0].trials[0].values == {"optimizer.lr": 0.02}


def test_a_search_that_asks_for_something_else_is_not_mixed_with_one_that_is_there(play: Any, tmp_path: Path) -> None:
    tune(play("a", 2))
    with pytest.raises(UserError, match=r"holds a search 'permuted-digits/mine' with another --seeds and --prune"):
        tune(play("a", 2, seeds=(1001,), prune=True))
    written(tmp_path, "{ low = 0.01, high = 0.03, log = true }")
    with pytest.raises(UserError, match=r"with another \[search\] table; begin it anew with --force"):
        tune(play("a", 2))
    (search,) = tune(play("a", 3, force=True))
    assert (len(search.trials), search.trials[1].values["optimizer.lr"] >= 0.01) == (3, True)


def test_trials_that_diverge_stop_and_count(play: Any, tmp_path: Path) -> None:
    written(tmp_path, "{ low = 0.02, high = 50.0, log = true }")
    (search,) = tune(play("a", 8))
    stopped = [trial for trial in search.trials if not trial.done]
    assert stopped
    assert all(trial.failure == "the loss is nan" and trial.values["optimizer.lr"] > 1 for trial in stopped)
    assert len(search.trials) == 8
    assert not list(tmp_path.rglob("failure.json"))
    assert search.best.score == max(trial.score for trial in search.trials if trial.done)


def test_what_is_not_of_a_point_ends_the_search_and_is_no_trial(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_drive, "attempt", lambda job: Outcome(job, None, failure="the disk is full", lost=True))
    with pytest.raises(WorkStoppedError, match="the disk is full"):
        tune(play("a", 2))
    monkeypatch.setattr(tune_drive, "attempt", played)
    assert all(trial.done for trial in tune(play("a", 2))[0].trials)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trials": 0}, "--trials 0: at least 1"),
        ({"at_once": 0}, "--at-once 0: at least 1"),
        ({"seeds": (999,)}, "seed 999 is not a tuning seed"),
        ({"strategies": ["naiv"]}, "unknown strategy 'naiv'; did you mean 'naive'?"),
        ({"strategies": ["naive", "naive"]}, "'permuted-digits/naive' is asked for twice"),
        ({"benchmark": "mnist-autoencoder", "prune": True}, "--prune: runs of kind autoencoder have no tasks"),
        ({"benchmark": "deep-linear"}, "ong tune searches for kinds continual, autoencoder"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        tune(replace(Asked("permuted-digits", ["naive"], out=tmp_path / "a"), **changes))
    (tmp_path / "bare.toml").write_text(RECIPE.partition("[search]")[0])
    with pytest.raises(UserError, match="has no \\[search\\] table: nothing to tune"):
        tune(Asked("permuted-digits", [str(tmp_path / "bare.toml")], out=tmp_path / "a"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("among", "said"),
    [
        ("{ low = true, high = 1.0 }", "low=True is no number"),
        ('{ low = "0.1", high = 1.0 }', "low='0.1' is no number"),
        ('{ low = 0.1, high = 1.0, log = "yes" }', "log='yes' is neither true nor false"),
        ('{ choices = "abc" }', "choices='abc' is no list"),
        ("{ low = 0.1 }", "'high' is missing"),
    ],
)
def test_a_range_that_is_none_is_refused(tmp_path: Path, among: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        tune(Asked("permuted-digits", [written(tmp_path, among)], 1, out=tmp_path / "a"))


def test_two_searches_in_one_folder_at_once_are_refused(play: Any) -> None:
    def again(problem: Any, trial: Trial) -> None:
        with pytest.raises(UserError, match="another search is at work in"):
            tune(play("a", 1))

    (search,) = tune(play("a", 1), listener=again)
    assert search.trials[0].done
    assert not is_there(Path(search.problem.asked.out) / ".lock")


def test_medians_are_of_the_trials_that_came_so_far() -> None:
    trials = [Trial(number, {}, 0.5, course=part) for number, part in enumerate([(0.9, 0.8), (0.5,), (0.7, 0.2), ()])]
    assert medians(trials) == (0.7, 0.5)


def test_a_run_is_ended_after_a_task_where_it_is_below_the_floor(tmp_path: Path) -> None:
    recipe = written(tmp_path, RANGE)
    (job,) = plan("permuted-digits", [recipe], [1000], {"training.epochs": 1, "stream.tasks": 3}, out=tmp_path / "runs")
    ended = perform(WatchedJob(**vars(job), floors=(2.0, 2.0, 2.0)))  # no accuracy is as high
    assert (ended.record, ended.place["task"], len(ended.place["course"])) == (None, 2, 2)
    whole = perform(WatchedJob(**vars(job), floors=(2.0, 0.0, 2.0)))  # not after the first and the last
    assert whole.record is not None
    assert course(whole.record["accuracy_matrix"])[:2] == ended.place["course"]
    assert course(whole.record["accuracy_matrix"])[-1] == pytest.approx(whole.record["metrics"]["ACC"])


def test_pruned_trials_count_leave_nothing_and_cost_one_seed(
    play: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[Job] = []

    def watched(job: Job) -> Outcome:
        done.append(job)
        outcome = played(job)
        hopeless = int(job.out.name.removeprefix("trial-")) % 2
        if outcome.record is None or not hopeless or not isinstance(job, WatchedJob) or not job.floors:
            return outcome
        so_far = course(outcome.record["accuracy_matrix"])
        job.folder.prepare()
        job.folder.save_failure({"strategy": "mine", "seed": job.seed, "message": "ended"})
        return Outcome(job, None, failure="ended", place={"task": 2, "course": so_far[:2]})

    monkeypatch.setattr(tune_drive, "attempt", watched)
    (search,) = tune(play("a", 10, seeds=(1000, 1001), prune=True))
    pruned = [trial for trial in search.trials if trial.pruned]
    assert {trial.number for trial in pruned} <= {5, 7, 9}  # those of the first wave have nothing to be compared with
    assert pruned
    assert len(search.trials) == 10
    assert not any(trial.done for trial in pruned)
    assert len(done) == 2 * 10 - sum(not trial.done for trial in search.trials)
    assert not list(tmp_path.rglob("failure.json"))
    assert repr(read_studies(tmp_path / "a")[0].trials) == repr(search.trials)


def foreign(path: Path) -> None:
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE studies (name TEXT)")


def broken(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"x" * (len(content) - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_text("hello"), "is not a SQLite file"),
        (lambda path: path.write_bytes(b""), "is not a SQLite file"),
        (foreign, "is a SQLite file of another program"),
        (broken, "is damaged"),
        (lambda path: path.mkdir(), "is a directory, where a file is expected"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_left_alone(play: Any, tmp_path: Path, spoil: Any, said: str) -> None:
    path = tmp_path / "a" / STUDIES
    tune(play("a", 1))
    if spoil is not broken:
        path.unlink()
    spoil(path)
    before = None if path.is_dir() else path.read_bytes()
    for use in (lambda: tune(play("a", 2)), lambda: read_studies(path.parent)):
        with pytest.raises(UserError, match=said):
            use()
    assert path.is_dir() or path.read_bytes() == before
    assert not is_there(path.with_name(".lock"))


def test_a_folder_that_cannot_be_written_to_is_one_line(play: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the output folder"):
        tune(play("file/inside", 1))

"""A part is found in a folder, in a user's module and in another distribution, and what fails says whose it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.fake_records import record, write_record, write_runs
from rich.console import Console

import ong.metrics
import ong.streams
from ong.errors import UnknownNameError, UserError
from ong.experiments.diagnostics import own_diagnostics
from ong.experiments.schema import Buildable
from ong.extensions import Extensions, load_all, offered, subclasses
from ong.metrics import METRICS, AccuracyMatrix, Metric, metric
from ong.report.compare import differences
from ong.report.formats import FORMATS
from ong.report.markdown import markdown
from ong.report.page import page
from ong.report.reading import read_runs
from ong.report.runs import Runs
from ong.report.tables import every_column, summary_text
from ong.report.terminal import print_summary
from ong.report.write import write_report
from ong.streams import ImageDataset, build_stream
from ong.streams.registry import StreamEntry

WORST = """
from ong.metrics import metric

@metric("worst_task", title="Worst task", formula="min_j R[T−1, j]", better="higher", form=".1%")
def worst(matrix):
    return matrix.after[-1].min()

@metric("gap")
def gap(matrix, others):
    return others["joint"].after[-1].mean() - matrix.after[-1].mean() if "joint" in others else float("nan")

@metric("ACC")
def another(matrix):
    return 0.0

@metric("leak")
def taken(matrix):
    return 0.0

@metric("broken")
def broken(matrix):
    return matrix.after[99, 0]

def plain(matrix):
    return 0.0
"""
Install = Callable[..., None]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with entry points."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(group: str, **points: str) -> None:
        info = tmp_path / "gadgets-1.2.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gadgets\nVersion: 1.2\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")

    return write


def metrics_anew() -> Extensions[Metric]:
    return Extensions(Metric, "metric", "ong.metrics", "ong.metrics", by="ong.metrics.metric", first="usual")


def test_a_file_in_the_folder_is_a_metric_more_after_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "area.py").write_text(WORST.split('@metric("gap")')[0], encoding="utf-8")
    usual = list(METRICS.own)
    monkeypatch.setattr(ong.metrics, "__path__", [*ong.metrics.__path__, str(tmp_path)])
    found = metrics_anew()
    assert list(found) == [*usual, "worst_task"]
    assert found["worst_task"](AccuracyMatrix(np.full((3, 2), 0.25))) == 0.25
    del sys.modules["ong.metrics.area"]


def test_a_file_in_the_folder_is_a_stream_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "twice.py").write_text(
        "from ong.streams import stream, rotated\n"
        "@stream('twice', 'the same images twice')\n"
        "def twice(dataset, *, angle: float = 0.0):\n    return rotated(dataset, angles=[angle, angle])\n"
    )
    usual = set(ong.streams.STREAMS)
    monkeypatch.setattr(ong.streams, "__path__", [*ong.streams.__path__, str(tmp_path)])
    found = Extensions(StreamEntry, "stream", "ong.streams", "ong.streams", by="ong.streams.stream")
    assert set(found) == {*usual, "twice"}
    images = ImageDataset("x", *2 * (np_images(), np_labels()), classes=2, source="here")
    assert len(build_stream(found["twice"], images, 0, angle=3.0).train_stream) == 2
    del sys.modules["ong.streams.twice"]


def np_images() -> Any:
    return ong.streams.load_dataset("digits").test_images[:4]


def np_labels() -> Any:
    return ong.streams.load_dataset("digits").test_labels[:4] % 2


def test_classes_of_a_folder_are_those_its_files_define(tmp_path: Path, module: Any) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes/__init__.py").write_text("class Shape: ...\n")
    (tmp_path / "shapes/square.py").write_text(
        "from shapes import Shape\nclass Square(Shape): ...\nclass _Hidden(Shape): ...\n"
    )
    (tmp_path / "shapes/tilted.py").write_text("from shapes.square import Square\nclass Tilted(Square): ...\n")
    from shapes import Shape  # type: ignore[import-not-found]

    assert list(subclasses("shapes", Shape)) == ["Square", "Tilted"]


def test_a_metric_of_ones_own_is_in_table_page_compare_and_results(tmp_path: Path, module: Any) -> None:
    module("gauges", WORST)
    folder = write_runs(tmp_path / "runs", ["naive", "ogd", "joint"], seeds=2, tasks=3)
    asked = [METRICS.get_or_use("gauges:worst"), METRICS.get_or_use("gauges:gap")]
    (runs,) = read_runs(folder, asked)
    assert isinstance(runs, Runs)
    naive = [float(r.matrix.after[-1].min()) for r in runs.of("naive")]
    table = summary_text(runs).set_index("Strategy")
    assert table.loc["naive", "Worst task"].startswith(f"{sum(naive) / 2:.1%}")
    assert "| `worst_task` | `min_j R[T−1, j]` |" in markdown([runs])
    assert "min_j R[T−1, j]" in page([runs])
    assert [c.key for c in every_column(runs)][:2] == ["ACC", "learning_accuracy"]
    gained = differences(runs, "naive")["ogd"]
    assert {"worst_task", "gap"} <= set(gained)
    assert gained["gap"].mean == pytest.approx(-gained["ACC"].mean)  # joint's cancels
    import gauges  # type: ignore[import-not-found]

    console = Console(width=200, file=StringIO())
    print_summary(runs.records, console, metrics=asked)
    assert "Worst task" in console.file.getvalue()
    loaded = ong.load(folder, metrics=[gauges.worst]).table()
    assert loaded["worst_task"]["mean"]["naive"] == pytest.approx(sum(naive) / 2)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("worst", {"better": "sideways"}, "better is 'higher', 'lower' or None, got 'sideways'"),
        ("worst, of all", {}, "a name is one word without commas"),
        ("", {}, "a name is one word without commas"),
    ],
)
def test_a_metric_that_columns_or_bold_numbers_could_not_show_is_refused(
    name: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        metric(name, **options)


def test_a_diagnostic_takes_no_metrics_name(tmp_path: Path, module: Any) -> None:
    module(
        "gauges",
        "from ong.plugins import Diagnostic\nfrom ong.quantities import Quantity\n"
        "class Taken(Diagnostic):\n    quantities = {'BWT': Quantity(title='x')}\n",
    )
    with pytest.raises(UserError, match="diagnostic Taken: 'BWT' is measured already; rename it"):
        own_diagnostics([Buildable(use="gauges:Taken")], [])


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ("gauges:another", "there is another metric 'ACC'"),
        ("gauges:plain", "is no metric; a function under @ong.metrics.metric is one"),
        ("gauges:wors", "unknown name in gauges .metric. 'wors'; did you mean 'worst'"),
        ("gauges", "unknown metric 'gauges'"),
        ("nowhere:worst", "cannot import 'nowhere'"),
        (":worst", "not of the form 'module:Name'"),
        ("wrong:worst", r"cannot import 'wrong' \(ZeroDivisionError: division by zero, at wrong.py:1\)"),
    ],
)
def test_what_is_no_metric_is_one_line(module: Any, use: str, told: str) -> None:
    module("gauges", WORST)
    module("wrong", "1 / 0\n")
    with pytest.raises(UserError, match=told):
        METRICS.get_or_use(use)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("taken", "metric 'leak' has the name of another column"),
        ("broken", "metric 'broken' fails for a run of 3 tasks .IndexError"),
    ],
)
def test_a_metric_that_cannot_be_shown_is_one_line(tmp_path: Path, module: Any, name: str, told: str) -> None:
    module("gauges", WORST)
    folder = write_runs(tmp_path / "runs", ["naive"], seeds=1, tasks=3)
    with pytest.raises(UserError, match=told):
        write_report(folder, ["md"], None, [METRICS.get_or_use(f"gauges:{name}")])


def test_a_distribution_offers_parts_by_name(module: Any, install: Install) -> None:
    module("gauges", WORST)
    install("ong.metrics", worst_task="gauges:worst", other="gauges:gap", absent="gauges:absent", late="nowhere:x")
    found = metrics_anew()
    assert list(found) == [*METRICS.own, "absent", "late", "other", "worst_task"]
    assert found["worst_task"].form == ".1%"
    with pytest.raises(UserError, match="gadgets 1.2: its entry point 'other' is the metric 'gap'; give both one name"):
        found["other"]
    for name, why in (("absent", "AttributeError|has no attribute 'absent'"), ("late", "No module named 'nowhere'")):
        with pytest.raises(UserError, match=f"gadgets 1.2: its '{name}' of ong.metrics .* cannot be loaded .*({why})"):
            found[name]
    with pytest.raises(UnknownNameError, match="unknown metric 'worst_tas'; did you mean 'worst_task'"):
        found.get_or_use("worst_tas")


def test_a_distribution_offers_methods_and_layers(module: Any, install: Install) -> None:
    module("balls", "from ong.methods import Method\nclass Ball(Method): ...\n")
    install("ong.methods", Ball="balls:Ball")
    assert offered("ong.methods", "Ball").__name__ == "Ball"
    assert ong.methods.Ball is offered("ong.methods", "Ball")
    assert ong.Ball.__name__ == "Ball"
    assert type(ong.Ball().method) is ong.methods.Ball
    module("layers", "raise RuntimeError('no GPU')\n")
    install("ong.layers", mine="layers")
    with pytest.raises(UserError, match="gadgets 1.2: its 'mine' of ong.layers .*RuntimeError: no GPU, at layers.py:1"):
        load_all("ong.layers")


def test_a_report_format_of_ones_own_writes_its_files_or_says_why_not(tmp_path: Path, module: Any) -> None:
    module(
        "own_writers",
        "from ong.report.formats import report_format\n"
        "@report_format('names', 'the names')\n"
        "def names(results, folder, options):\n"
        "    (folder / 'names.txt').write_text(' '.join(results.strategies) + ' ' + ' '.join(options.formats))\n"
        "    return [folder / 'names.txt']\n"
        "@report_format('bad', 'fails')\n"
        "def bad(results, folder, options):\n    raise ImportError('No module named openpyxl')\n",
    )
    folder = write_runs(tmp_path / "runs", ["naive", "ogd"], seeds=1, tasks=3)
    written = write_report(folder, ["own_writers:names", "csv"])
    assert [path.name for path in written] == ["names.txt", "report.csv"]
    assert written[0].read_text() == "ogd naive names csv"
    with pytest.raises(UserError, match="report format 'bad' fails .ImportError: No module named openpyxl"):
        write_report(folder, ["own_writers:bad"])
    assert {name for name, known in FORMATS.own.items() if known.usual} == {"md", "csv", "tex", "html", "png"}


def test_a_diagnostic_that_a_record_describes_is_a_column_with_its_formula(tmp_path: Path) -> None:
    content = record("naive", tasks=3)
    content["diagnostics"]["drift"] = [1.0, 2.0, 4.0]
    content["diagnostics"]["rogue"] = [1.0, 1.0, 1.0]
    content["quantities"] = {
        "drift": {"title": "Drift [red]", "about": "way of the weights", "formula": "‖Δ‖", "form": ".1f", "over": "last"},
        "rogue": {"title": "ACC"},
    }  # fmt: skip
    path = write_record(tmp_path, content)
    (runs,) = read_runs(tmp_path)
    assert isinstance(runs, Runs)
    row = summary_text(runs).iloc[0]
    assert row["Drift [red]"] == "4.0"
    assert {"ACC", "ACC (rogue)"} <= set(row.index)
    assert "‖Δ‖" in page([runs])
    content["quantities"] = {"drift": {"title": "Drift", "form": "%s"}}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="quantities.drift: .*writes no number"):
        read_runs(tmp_path)

"""The command line: ``ong list | run | sweep | tune | verify | report | compare | show``.

Exit codes: 0 done; 2 the user's input is wrong (one line says what, where and what would be right); 1 anything else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ong.console import one_line, run_command_line, say
from ong.errors import UserError
from ong.experiments.arguments import check_cluster, check_jobs, find_records, parse_settings, seeds_of
from ong.experiments.levels import level_of_records, level_of_sweep, take_level
from ong.files import is_there

if TYPE_CHECKING:
    from ong.experiments.jobs import Job

__all__ = ["main"]


def _folder(path: str | Path) -> Path:
    """Return a folder's path; none at all, as an unset variable leaves, is refused."""
    if not str(path).strip():
        raise typer.BadParameter("it is empty; the present folder is .")
    return Path(path)


Metrics = Annotated[
    list[str] | None, typer.Option("--metric", help="A metric of your own, as module:Name, beside the usual ones.")
]
DataRoot = Annotated[Path | None, typer.Option(parser=_folder, help="Where data sets that are not in the package lie.")]
_LOGGERS = "tensorboard, csv, wandb, mlflow, or module:Class of your own; may be repeated."

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How far does a learner forget, and which geometry of its updates prevents it?",
)


def main() -> None:
    """Run the command line and exit with its code."""
    sys.path.append(os.getcwd())  # for a recipe's plugins in the present folder
    run_command_line(lambda: app(standalone_mode=False))


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"ong {version('ong')}, Python {sys.version.split()[0]}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options of the command line itself."""


@app.command("list")
def list_command() -> None:
    """List strategies, benchmarks, data sets, streams, networks, metrics and report formats."""
    from ong.experiments.kinds import KINDS
    from ong.experiments.models import MODELS
    from ong.experiments.recipes import list_recipes, load_benchmark, load_strategy
    from ong.metrics import METRICS
    from ong.report.formats import FORMATS
    from ong.streams import DATASETS, STREAMS

    console = Console()
    benchmarks = [load_benchmark(name) for name in list_recipes("benchmarks")]
    groups = {}
    for kind in KINDS.values():
        groups[f"{kind.name}: benchmarks"] = [(b.name, b.summary) for b in benchmarks if b.kind == kind.name]
        groups[f"{kind.name}: strategies"] = [
            (name, load_strategy(name, kind.name).summary) for name in list_recipes(kind.folder)
        ]
    registries: dict[str, Mapping[str, Any]] = {"data sets": DATASETS, "streams": STREAMS, "networks": MODELS}
    groups |= {title: [(n, entry.description) for n, entry in known.items()] for title, known in registries.items()}
    groups["metrics"] = [(n, f"{metric.about}: {metric.formula}") for n, metric in METRICS.items()]
    groups["report formats"] = [(n, known.about) for n, known in FORMATS.items()]
    for title, rows in groups.items():
        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
        )
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for name, summary in rows:
            table.add_row(Text(name), Text(summary))
        console.print(table)
        console.print()


@app.command("run")
def run_command(
    benchmark: Annotated[str, typer.Argument(help="A benchmark's name, or the path of a recipe.")],
    strategies: Annotated[
        list[str] | None, typer.Argument(help="Strategies by name or path; without any, the benchmark's usual ones.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="5 or 0-4 are seeds 0…4; 3,7 are those two. Default: seed 0.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One seed alone.")] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 is one a core.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value in a recipe, such as training.epochs=1.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Another data set than the benchmark's.")] = None,
    data_root: DataRoot = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    out: Annotated[Path, typer.Option(parser=_folder, help="The folder of all runs.")] = Path("runs"),
    memory: Annotated[
        str | None,
        typer.Option(help="Bytes kept from task to task, such as 4MB or 1MB,4MB: strategies are sized to it."),
    ] = None,
    loggers: Annotated[list[str] | None, typer.Option("--logger", help=_LOGGERS)] = None,
    metrics: Metrics = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat finished runs and drop unfinished ones.")] = False,
) -> int:
    """Train strategies on a benchmark; finished runs are skipped, unfinished ones resumed."""
    check_jobs(jobs)
    seed_list = seeds_of(seeds, seed, [0])
    changes = parse_settings(settings or [])
    from ong.experiments.memory import read_budgets
    from ong.experiments.plan import plan

    console = Console()
    planned = plan(
        benchmark,
        strategies or None,
        seed_list,
        changes,
        dataset,
        data_root,
        out,
        force=force,
        device=device,
        memory=read_budgets(memory) if memory is not None else (),
        loggers=loggers or (),
        tell=lambda line: console.out(line, highlight=False),
    )
    return _do(planned, jobs, console, metrics=metrics or ())


@app.command("sweep")
def sweep_command(
    file: Annotated[Path, typer.Argument(help="A sweep file: benchmarks, strategies, seeds and overrides.")],
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 is one a core.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(parser=_folder, help="Where data sets lie, in place of the file's.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    out: Annotated[
        Path | None, typer.Option(parser=_folder, help="The folder of all runs, in place of the file's.")
    ] = None,
    loggers: Annotated[list[str] | None, typer.Option("--logger", help=_LOGGERS)] = None,
    metrics: Metrics = None,
    force: Annotated[bool, typer.Option("--force", help="Repeat finished runs and drop unfinished ones.")] = False,
    cluster: Annotated[
        str | None, typer.Option(help="dask://HOST:PORT: a Dask scheduler, whose workers do the runs.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is done, what is to do and how long it may take, and stop.")
    ] = False,
) -> int:
    """Do all runs of a sweep file; finished runs are skipped, unfinished ones resumed."""
    check_jobs(jobs)
    if cluster is not None:
        check_cluster(cluster)
        if jobs:
            raise UserError(f"--jobs {jobs} and --cluster {cluster}: give one of them; a cluster has its own workers")
    take_level(level_of_sweep(file))
    from ong.experiments.forecast import summary_of
    from ong.experiments.sweep import default_workers
    from ong.experiments.sweep_file import sweep_jobs
    from ong.metrics import METRICS

    console = Console()
    planned = sweep_jobs(
        file,
        out,
        data_root,
        force=force,
        device=device,
        loggers=loggers or (),
        tell=lambda line: console.out(line, highlight=False),
    )
    if dry_run:
        for name in metrics or ():
            METRICS.get_or_use(name)
        for line in summary_of(planned, jobs or default_workers(len(planned))):
            console.out(line, highlight=False)
        return 0
    return _do(planned, jobs, console, cluster, metrics or ())


def _do(
    planned: list[Job], workers: int, console: Console, cluster: str | None = None, metrics: Sequence[str] = ()
) -> int:
    """Do runs, print their table and return the exit code."""
    from ong.experiments.sweep import default_workers, sweep
    from ong.metrics import METRICS
    from ong.report.records import read_failure, read_record
    from ong.report.terminal import print_summary

    list(METRICS.values())  # one that cannot be loaded shows before anything is trained
    added = [METRICS.get_or_use(name) for name in metrics]
    for path in (job.folder.path / "record.json" for job in planned if not job.force):
        if is_there(path):
            read_record(path)  # a broken one shows before anything is trained
    outcomes = sweep(planned, workers or default_workers(len(planned)), cluster=cluster)
    finished = [read_record(o.job.folder.path / "record.json") for o in outcomes if o.record is not None]
    stopped = [o.job.folder.path / "failure.json" for o in outcomes if o.record is None]
    failed = [read_failure(path) for path in stopped if is_there(path)]  # none where another process is at work
    skipped = sum(outcome.skipped for outcome in outcomes)
    if skipped:
        console.out(f"{skipped} of {len(outcomes)} runs were finished before (--force repeats them)", highlight=False)
    print_summary(finished, console, failed, added)
    for folder in dict.fromkeys(o.job.out / o.job.benchmark.name for o in outcomes):
        console.out(f"records in {one_line(str(folder))}{os.sep}", highlight=False)
    for outcome in outcomes:
        if outcome.failure is not None:
            say(f"ong: {outcome.failure}")
    return 0 if not stopped else 2 if all(o.wrong for o in outcomes if o.record is None) else 1


@app.command("verify")
def verify_command(
    records: Annotated[list[Path], typer.Argument(help="record.json files, or folders that hold some.")],
    tolerance: Annotated[
        float, typer.Option(help="How far ACC may differ on another kind of machine (other kinds: share of a metric).")
    ] = 0.01,
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 is one a core.")] = 0,
    data_root: DataRoot = None,
) -> int:
    """Run published records again and say whether they come out the same."""
    check_jobs(jobs)
    paths = find_records(records)
    take_level(level_of_records(paths))
    from ong.experiments.sweep import default_workers
    from ong.experiments.verify import table_of, verify

    found = list(verify(paths, tolerance=tolerance, data_root=data_root, workers=jobs or default_workers(len(paths))))
    console = Console()
    console.print(table_of(found))
    console.print(
        "On the same kind of machine (processor, vector units, threads, versions) all must be the same to the bit; on "
        f"another the difference, of ACC or the largest share of a metric, may be {tolerance:g}.",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if all(verdict.passes for verdict in found) else 1


@app.command("report")
def report_command(
    directory: Annotated[Path, typer.Argument(help="A folder that holds records, or the folder of ong tune.")],
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Default: md,csv,tex,html,png; on request pdf,matrices,npz, and your own as module:Name.",
        ),
    ] = None,
    metrics: Metrics = None,
    only: Annotated[str, typer.Option(help="The strategies shown, in this order, such as ogd,naive.")] = "",
    labels: Annotated[
        list[str] | None, typer.Option("--label", help="A strategy's printed name, as in ogd='OGD (ours)'.")
    ] = None,
    columns: Annotated[str, typer.Option(help="The columns shown, in this order, such as ACC,BWT.")] = "",
    paper: Annotated[str, typer.Option(help="What figures are for: screen, one-column or two-column.")] = "screen",
) -> None:
    """Write tables, figures and one HTML page from records, or the page of searches."""
    if is_there(directory / "studies.sqlite3"):
        if formats or metrics or only or labels or columns or paper != "screen":
            raise UserError(f"'{directory}' holds searches, whose page takes no options; give its folder alone")
        from ong.report.tuning import write_tuning_page

        print(write_tuning_page(directory))
        return
    from ong.metrics import METRICS
    from ong.report.choice import read_choice
    from ong.report.records import understood
    from ong.report.write import write_report

    choice, added = read_choice(only, labels or [], columns, paper), [METRICS.get_or_use(m) for m in metrics or []]
    wanted = None if formats is None else [part.strip() for part in formats.split(",") if part.strip()]
    with understood(directory):
        written = write_report(directory, wanted, choice, added)
    for path in sorted(written, key=lambda path: path.suffix == ".html"):  # the page last, to be opened
        print(path)


@app.command("compare")
def compare_command(
    directory: Annotated[Path, typer.Argument(help="A folder that holds records.")],
    baseline: Annotated[str, typer.Option(help="The strategy that others are compared with.")] = "naive",
    metrics: Metrics = None,
) -> None:
    """Print each strategy's differences from a baseline, paired by seed."""
    from ong.metrics import METRICS
    from ong.report.compare import print_differences
    from ong.report.reading import read_runs
    from ong.report.records import understood
    from ong.report.runs import Runs

    added = [METRICS.get_or_use(m) for m in metrics or []]
    found = [runs for runs in read_runs(directory, added) if isinstance(runs, Runs)]
    if not found:
        raise UserError(f"{directory}: no runs over tasks, which alone are compared")
    for runs in found:
        with understood(directory):
            print_differences(runs, baseline, Console())


@app.command("show")
def show_command(
    record: Annotated[Path, typer.Argument(help="A record.json, or the folder of a run.")],
) -> None:
    """Show one record in the terminal."""
    from ong.report.records import read_record, understood
    from ong.report.terminal import print_record

    with understood(record):
        print_record(read_record(record), Console())


@app.command("schema")
def schema_command(
    what: Annotated[str, typer.Argument(help="record, benchmark, strategy or sweep.")],
    kind: Annotated[str, typer.Option(help="The kind of benchmark; see ong list.")] = "continual",
) -> None:
    """Print the JSON Schema of a record, recipe or sweep file, by which editors complete and check TOML."""
    from ong.experiments.json_schema import json_schema

    print(json.dumps(json_schema(what, kind), indent=2, ensure_ascii=False))


@app.command("tune")
def tune_command(
    benchmark: Annotated[str, typer.Argument(help="A benchmark's name, or the path of a recipe.")],
    strategies: Annotated[list[str], typer.Argument(help="Strategies by name or path; all get as many trials.")],
    trials: Annotated[int, typer.Option(help="Points to try for each strategy; more go on where fewer ended.")] = 12,
    seeds: Annotated[str | None, typer.Option(help="Tuning seeds from 1000 on, such as 1000-1002.")] = None,
    seed: Annotated[int | None, typer.Option(help="One tuning seed alone. Default: 1000.")] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 is one a core. They change no result.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value in a recipe.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Another data set than the benchmark's.")] = None,
    data_root: DataRoot = None,
    out: Annotated[Path, typer.Option(parser=_folder, help="The folder of all trials and their runs.")] = Path(
        "tuning"
    ),
    memory: Annotated[str | None, typer.Option(help="A budget such as 4MB, to which each trial is sized.")] = None,
    at_once: Annotated[
        int, typer.Option(help="Trials of a strategy chosen together: more keep more jobs busy, and each knows less.")
    ] = 1,
    prune: Annotated[
        bool, typer.Option("--prune", help="End a trial after a task where half of the trials before it were better.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove the trials that are there and begin anew.")] = False,
    write: Annotated[
        bool,
        typer.Option("--write", help="Put the best into each recipe's \\[on.…] table; the package's own too."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is done, what is to do and how long it may take, and stop.")
    ] = False,
) -> None:
    """Search strategies' hyper-parameters on tuning seeds, which no report shows; a killed search goes on."""
    check_jobs(jobs)
    seed_list, changes = seeds_of(seeds, seed, [1000]), parse_settings(settings or [])
    from ong.experiments.memory import read_budget
    from ong.experiments.tune_command import print_plan, print_searches
    from ong.experiments.tune_problem import Asked

    budget = read_budget(memory) if memory is not None else None
    asked = Asked(
        benchmark, strategies, trials, seed_list, changes, dataset, data_root, out, budget, at_once, prune, force
    )
    if dry_run:
        print_plan(asked, jobs, Console())
    else:
        print_searches(asked, jobs, Console(), write=write)

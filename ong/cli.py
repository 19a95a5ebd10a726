"""The command line: ``ong list | run | show | report``.

Exit codes: 0 done; 2 the user's input is wrong (one line says what, where and what would be right); 1 anything else.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ong.errors import UserError, WorkStoppedError

__all__ = ["main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="How far does a learner forget, and which geometry of its updates prevents it?",
)


_INTERRUPTED = 130  # what typer turns Ctrl-C into
_MOST_SEEDS = 1000
_SIMILAR = {"−": "-", "–": "-", "—": "-", "±": "+-", "×": "x", "·": "*", "…": "...", "≤": "<=", "≥": ">=", "→": "->"}


def main() -> None:
    """Run the command line and exit with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error("ong.similar", _similar)
        sys.stdout.reconfigure(errors="ong.similar")
    sys.path.append(os.getcwd())  # for a recipe's plugins in the present folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the workers too
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except WorkStoppedError as error:
        print(f"ong: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's errors, whichever click typer brings
        if usage is None:
            raise
        _fail(usage())
    if code == _INTERRUPTED:
        print("interrupted; the same command resumes where it was (with --force it begins anew)", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _similar(error: UnicodeError) -> tuple[str, int]:
    """Replace what the console's encoding lacks: a minus sign by a hyphen, a letter of a formula by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SIMILAR.get(character, "?") for character in lacking), error.end


def _fail(message: str) -> None:
    print("ong: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def _check_jobs(jobs: int) -> None:
    if jobs < 0:
        raise UserError(f"--jobs {jobs}: give the number of workers, or 0 for one a core")


def _parse_seeds(text: str) -> list[int]:
    """Read ``5`` as 0…4 and ``3,7`` as those two (``3,`` is the single seed 3)."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--seeds '{text}': give a count, such as 5, or a list, such as 3,7") from None
    if "," not in text:
        if not numbers or not 1 <= numbers[0] <= _MOST_SEEDS:
            raise UserError(f"--seeds '{text}': the count must be from 1 to {_MOST_SEEDS}; one seed alone is '{text},'")
        return list(range(numbers[0]))
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds '{text}': seeds must be different and not negative")
    return numbers


def _parse_settings(settings: list[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs, the value as TOML, or as text where it is not."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set '{setting}' is not of the form key=value")
        try:
            changes[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[key.strip()] = value
    return changes


@app.command("list")
def list_command() -> None:
    """List strategies, benchmarks and data sets."""
    from ong.experiments.kinds import KINDS
    from ong.experiments.recipes import list_recipes, load_benchmark, load_strategy
    from ong.streams import DATASETS

    console = Console()
    benchmarks = [load_benchmark(name) for name in list_recipes("benchmarks")]
    groups = {}
    for kind in KINDS.values():
        groups[f"{kind.name}: benchmarks"] = [(b.name, b.summary) for b in benchmarks if b.kind == kind.name]
        groups[f"{kind.name}: strategies"] = [
            (name, load_strategy(name, kind.name).summary) for name in list_recipes(kind.folder)
        ]
    groups["data sets"] = [(name, entry.description) for name, entry in DATASETS.items()]
    for title, rows in groups.items():
        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
        )
        table.add_column(style="cyan", no_wrap=True)
        table.add_column()
        for name, summary in rows:
            table.add_row(name, summary)
        console.print(table)
        console.print()


@app.command("run")
def run_command(
    benchmark: Annotated[str, typer.Argument(help="A benchmark's name, or the path of a recipe.")],
    strategies: Annotated[
        list[str] | None, typer.Argument(help="Strategies by name or path; without any, the benchmark's usual ones.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="5 is seeds 0…4; 3,7 are those two; '3,' is seed 3 alone.")] = "1",
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 is one a core.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value in a recipe, such as training.epochs=1.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Another data set than the benchmark's.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where data sets that are not in the package lie.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Repeat finished runs and drop unfinished ones.")] = False,
) -> int:
    """Train strategies on a benchmark; finished runs are skipped, unfinished ones resumed."""
    _check_jobs(jobs)
    seed_list = _parse_seeds(seeds)
    changes = _parse_settings(settings or [])
    from ong.experiments.plan import plan
    from ong.experiments.sweep import default_workers, sweep
    from ong.report.records import read_failure, read_record
    from ong.report.terminal import print_summary

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
        tell=console.print,
    )
    for path in (job.folder.path / "record.json" for job in planned if not force):
        if path.exists():
            read_record(path)  # a broken one shows before anything is trained
    outcomes = sweep(planned, jobs or default_workers(len(planned)))
    finished = [read_record(o.job.folder.path / "record.json") for o in outcomes if o.record is not None]
    stopped = [o.job.folder.path / "failure.json" for o in outcomes if o.record is None]
    failed = [read_failure(path) for path in stopped if path.exists()]  # none where another process is at work
    skipped = sum(outcome.skipped for outcome in outcomes)
    if skipped:
        console.print(f"{skipped} of {len(outcomes)} runs were finished before (--force repeats them)")
    print_summary(finished, console, failed)
    console.print(f"records in {outcomes[0].job.out / outcomes[0].job.benchmark.name}{os.sep}", soft_wrap=True)
    for outcome in outcomes:
        if outcome.failure is not None:
            print("ong: " + outcome.failure, file=sys.stderr)
    return 0 if not stopped else 2 if all(o.wrong for o in outcomes if o.record is None) else 1


@app.command("report")
def report_command(
    directory: Annotated[Path, typer.Argument(help="A folder that holds records.")],
    formats: Annotated[str, typer.Option("--format", help="Any of md,csv,tex,html,png.")] = "md,csv,tex,html,png",
) -> None:
    """Write tables, figures and one HTML page from records."""
    from ong.report.write import write_report

    written = write_report(directory, [part.strip() for part in formats.split(",") if part.strip()])
    for path in sorted(written, key=lambda path: path.suffix == ".html"):  # the page last, to be opened
        print(path)


@app.command("compare")
def compare_command(
    directory: Annotated[Path, typer.Argument(help="A folder that holds records.")],
    baseline: Annotated[str, typer.Option(help="The strategy that others are compared with.")] = "naive",
) -> None:
    """Print each strategy's differences from a baseline, paired by seed."""
    from ong.report.compare import print_differences
    from ong.report.runs import Runs, read_runs

    found = [runs for runs in read_runs(directory) if isinstance(runs, Runs)]
    if not found:
        raise UserError(f"{directory}: no runs over tasks, which alone are compared")
    for runs in found:
        print_differences(runs, baseline, Console())


@app.command("show")
def show_command(
    record: Annotated[Path, typer.Argument(help="A record.json, or the folder of a run.")],
) -> None:
    """Show one record in the terminal."""
    from ong.report.records import read_record
    from ong.report.terminal import print_record

    print_record(read_record(record / "record.json" if record.is_dir() else record), Console())


@app.command("tune")
def tune_command(
    benchmark: Annotated[str, typer.Argument(help="A benchmark's name, or the path of a recipe.")],
    strategy: Annotated[str, typer.Argument(help="A strategy's name, or the path of a recipe.")],
    trials: Annotated[int, typer.Option(help="Points to try; use the same number for all you compare.")] = 12,
    seeds: Annotated[str, typer.Option(help="Tuning seeds from 1000 on; '1000,1001' are those two.")] = "1000,",
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 is one a core.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value in a recipe.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Another data set than the benchmark's.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Where data sets that are not in the package lie.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of all trials' runs.")] = Path("tuning"),
    force: Annotated[bool, typer.Option("--force", help="Repeat finished trials.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Put the best into the recipe's \\[on.…] table.")] = False,
) -> None:
    """Search a strategy's hyper-parameters on tuning seeds, which no report shows; finished trials are not repeated."""
    from ong.experiments.kinds import kind_of
    from ong.experiments.plan import plan
    from ong.experiments.recipes import load_benchmark, recipe_path
    from ong.experiments.sweep import default_workers
    from ong.experiments.tune import tune, write_block

    _check_jobs(jobs)
    seed_list = _parse_seeds(seeds)
    console = Console()
    learned = load_benchmark(benchmark)
    kind = kind_of(learned.kind)
    merit = kind.merit.metric if kind.merit else ""

    def tell(trial: Any) -> None:
        values = "  ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.values.items()
        )
        found = f"{merit} {trial.score:.4f}" if trial.failure is None else "stopped"
        console.print(f"{found}  {values}", highlight=False)
        if trial.failure is not None:
            console.print(f"  {trial.failure}", style="dim", highlight=False, soft_wrap=True)

    settings_given = _parse_settings(settings or [])
    found = tune(
        benchmark,
        strategy,
        trials,
        seed_list,
        changes=settings_given,
        dataset=dataset,
        data_root=data_root,
        out=out,
        force=force,
        workers=jobs or default_workers(trials * len(seed_list)),
        listener=tell,
    )
    name = plan(benchmark, [strategy], seed_list, settings_given, dataset)[0].benchmark.name
    named = ", ".join(map(str, seed_list))
    console.print(f"\n\\[on.{name}]  # {merit} {found[0].score:.4f} on tuning seeds {named}")
    for key, value in found[0].values.items():
        console.print(f'"{key}" = {json.dumps(value)}', highlight=False)
    if write:
        path = recipe_path(strategy, kind.folder)
        write_block(path, name, found[0].values)
        console.print(f"written to {path}", soft_wrap=True)

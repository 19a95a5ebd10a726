"""``ong tune``: what it prints, before a search, while it goes on and at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import mean

from rich.console import Console

from ong.console import one_line
from ong.errors import WorkStoppedError
from ong.experiments.progress import duration
from ong.experiments.sweep import default_workers
from ong.experiments.tune import Search, tune
from ong.experiments.tune_points import STARTUP
from ong.experiments.tune_problem import Asked, Problem, problems
from ong.experiments.tune_store import finished_trials
from ong.experiments.tune_write import write_block
from ong.report.studies import Trial

__all__ = ["print_plan", "print_searches"]


def print_searches(asked: Asked, jobs: int, console: Console, *, write: bool) -> None:
    """Search, print each trial and the block for each recipe, and write the blocks if asked to.

    Args:
        asked: what is searched.
        jobs: worker processes; 0 is as many as there is work and cores for.
        console: where to print.
        write: put the best values into the recipes.

    Raises:
        UserError: whatever is wrong.
        WorkStoppedError: every trial of a strategy stopped; what others found is printed and written before.
    """

    def tell(problem: Problem, trial: Trial) -> None:
        console.out(f"{problem.label}  {trial.line(problem.merit.metric)}", highlight=False)
        if trial.failure is not None:
            console.out(f"  {trial.failure}", style="dim", highlight=False)

    found = tune(asked, _workers(asked, jobs), tell)
    merit = found[0].problem.merit
    stopped: WorkStoppedError | None = None
    console.out(f"\n{merit.metric} is {merit.means}.", highlight=False)
    for search in found:
        try:
            search.best  # noqa: B018  # raises where there is none
        except WorkStoppedError as error:
            stopped = error
            continue
        if write:  # before anything that may not be printable
            write_block(search.problem.recipe, search.problem.block, search.best.values, _told(search))
        for line in (*_block(search), *([f"written to {one_line(str(search.problem.recipe))}"] if write else [])):
            console.out(line, highlight=False)
    console.out(f"\nong report {one_line(str(asked.out))} makes the page of these trials", highlight=False)
    if stopped is not None:
        raise stopped


def _block(search: Search) -> Iterator[str]:
    problem = search.problem
    yield ""
    yield from (f"{problem.label}: {note}" for note in search.notes())
    heading = problem.block if problem.asked.memory is None else json.dumps(problem.block)
    yield f"[on.{heading}]  # {problem.label}, {_told(search)}"
    yield from (f'"{key}" = {json.dumps(value)}' for key, value in search.best.values.items())


def _told(search: Search) -> str:
    merit, asked = search.problem.merit, search.problem.asked
    held_out = " on held-out training data" if merit.changes else ""
    seeds = ", ".join(map(str, asked.seeds))
    return f"best of {asked.trials} trials: {merit.metric} {search.best.score:.4f}{held_out}, seeds {seeds}"


def print_plan(asked: Asked, jobs: int, console: Console) -> None:
    """Print what a search has done, what it has to do and how long that may take; nothing is built or written.

    Raises:
        UserError: whatever is wrong with what was asked for.
    """
    known = [(problem, finished_trials(problem)[: asked.trials]) for problem in problems(asked)]
    left, unknown = 0.0, 0
    for problem, trials in known:
        to_do = asked.trials - len(trials)
        seconds = [trial.seconds for trial in trials if trial.seconds]
        each = f", about {duration(mean(seconds))} each" if seconds and to_do else ""
        left += to_do * mean(seconds) if seconds else 0.0
        unknown += 0 if seconds else to_do
        console.out(f"{problem.name}: {len(trials)} of {asked.trials} trials done{each}", highlight=False)
    console.out(f"{sum(asked.trials - len(trials) for _, trials in known)} trials to do", highlight=False)
    if left:
        at_once = min(_workers(asked, jobs), len(known) * len(asked.seeds) * asked.at_once)
        told = f"about {duration(left)} of computing left, {duration(left / at_once)} with {_workers(asked, jobs)} jobs"
        more = f"; {unknown} trials of which nothing is known come to that" if unknown else ""
        console.out(told + more, highlight=False)


def _workers(asked: Asked, jobs: int) -> int:
    """Return how many processes there can be work for; a first wave has the most."""
    return jobs or default_workers(len(asked.strategies) * len(asked.seeds) * max(STARTUP, asked.at_once))

"""The page of searches for hyper-parameters: what each found, how sure that is, and what it depends on."""

from __future__ import annotations

import json
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from ong.files import write_text
from ong.report.columns import MISSING
from ong.report.figures import DARK, LIGHT
from ong.report.looks import COLOURS
from ong.report.runs import flatten
from ong.report.studies import Study, Trial, in_memory, read_studies

__all__ = ["PAGE", "importances", "plateau", "tuning_page", "write_tuning_page"]

PAGE = "tuning.html"
"""The page's name, beside the trials."""

_FEWEST = 6
"""Trials from which importances are told."""


def write_tuning_page(folder: Path) -> Path:
    """Write the page of the searches in a folder into it.

    Raises:
        UserError: the trials cannot be read, there are none, or the folder cannot be written to.
    """
    write_text(folder / PAGE, tuning_page(read_studies(folder)))
    return folder / PAGE


def tuning_page(studies: list[Study]) -> str:
    """Return one self-contained HTML page: no network; tables, charts and what draws them inside."""
    files = resources.files("ong.report")

    def text(name: str) -> str:
        return files.joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(text),
    )
    benchmarks = {name.partition("/")[0]: list[Study]() for name in (study.name for study in studies)}
    for study in studies:
        benchmarks[study.name.partition("/")[0]].append(study)
    return environment.get_template("tuning.html.j2").render(
        title=", ".join(benchmarks),
        css=text("page.css"),
        line_colours={"light": LIGHT.lines, "dark": DARK.lines},
        scripts=[text("static/plotly-basic.min.js"), text("static/tuning.js")],
        benchmarks=[_benchmark(name, of) for name, of in benchmarks.items()],
    )


def plateau(study: Study) -> list[Trial]:
    """Return the trials that are as good as the best, but for so little that it may be chance."""
    best = study.best
    if best is None:
        return []
    return [t for t in study.trials if t.done and abs(t.score - best.score) <= float(study.about["near"])]


def importances(study: Study) -> dict[str, float]:
    """Return the share of the scores' variance that each searched key explains; nothing of too few trials.

    By fANOVA (Hutter, Hoos, Leyton-Brown, ICML 2014) over the ranges in which the last trial was looked for.
    """
    done = [trial for trial in study.trials if trial.done and _within(study.space, trial.values)]
    if len(done) < _FEWEST or len({trial.score for trial in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = in_memory(study.better)
        for trial in done:
            again.add_trial(create_trial(params=trial.values, distributions=study.space, value=trial.score))
        shares = get_param_importances(again, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: float(share) for key, share in shares.items()}


def _within(space: dict[str, BaseDistribution], values: dict[str, Any]) -> bool:
    return all(among._contains(among.to_internal_repr(values[key])) for key, among in space.items())


def _benchmark(name: str, studies: list[Study]) -> dict[str, Any]:
    about = studies[0].about
    recipe = about["settings"]["benchmark"]
    counts = {len(study.trials) for study in studies}
    notes = []
    if len(counts) > 1:
        notes.append(
            "The strategies have had different numbers of trials; compare them after `ong tune` with one --trials."
        )
    for what in ("seeds", "at_once", "prune"):
        if len({json.dumps(study.about[what]) for study in studies}) > 1:
            notes.append(f"The strategies were searched with different --{what.replace('_', '-')}.")
    return {
        "name": name,
        "about": str(recipe.get("summary", "")),
        "metric": about["metric"],
        "means": about["means"],
        "near": f"{about['near']:g}",
        "chips": {
            "seeds": ", ".join(sorted({str(seed) for study in studies for seed in study.about["seeds"]})),
            "trials each": ", ".join(map(str, sorted(counts))),
        },
        "notes": notes,
        "data": [_data(study, place) for place, study in enumerate(studies)],
        "summary": [_summary(study) for study in studies],
        "studies": [_study(study) for study in studies],
    }


def _summary(study: Study) -> dict[str, Any]:
    best = study.best
    return {
        "name": _label(study),
        "score": MISSING if best is None else f"{best.score:.4f}",
        "values": MISSING if best is None else ", ".join(f"{k} = {_written(v)}" for k, v in best.values.items()),
        "number": MISSING if best is None else str(best.number),
        "trials": len(study.trials),
        "stopped": sum(not trial.done and not trial.pruned for trial in study.trials),
        "pruned": sum(trial.pruned for trial in study.trials),
        "plateau": len(plateau(study)),
        "seconds": f"{sum(trial.seconds for trial in study.trials):.0f}",
    }


def _study(study: Study) -> dict[str, Any]:
    about, shares, near = study.about, importances(study), plateau(study)
    recipe = about["settings"]["strategy"]
    head, *options = about["command"]
    told = {k: v for k, v in recipe.items() if k not in ("name", "summary", "source", "needs")}
    return {
        "name": _label(study),
        "summary": str(recipe.get("summary", "")),
        "keys": [
            {
                "key": key,
                "best": MISSING if study.best is None else _written(study.best.values[key]),
                "plateau": _span([trial.values[key] for trial in near]),
                "given": _range(about["search"][key]),
                "searched": _range(_told(among)),
                "share": shares.get(key),
            }
            for key, among in study.space.items()
        ],
        "trials": [
            {
                "number": trial.number,
                "score": f"{trial.score:.4f}" if trial.done else "pruned" if trial.pruned else "stopped",
                "values": [_written(trial.values[key]) for key in study.space],
                "seconds": f"{trial.seconds:.0f}" if trial.seconds else MISSING,
                "failure": trial.failure or "",
                "best": study.best is not None and trial.number == study.best.number,
            }
            for trial in study.trials
        ],
        "command": " ".join([head, "--trials", str(len(study.trials)), *options]),
        "recipe": {k: v if isinstance(v, str) else json.dumps(v) for k, v in flatten(told).items() if v is not None},
        "environment": {k: str(v) for k, v in flatten(about["environment"]).items() if k},
    }


def _data(study: Study, place: int) -> dict[str, Any]:
    """Return what the charts of a search are drawn from, as JSON holds it."""
    return {
        "name": _label(study),
        "colour": place % COLOURS,
        "dash": ("solid", "dash", "dot")[place // COLOURS % 3],
        "metric": study.about["metric"],
        "better": study.better,
        "near": study.about["near"],
        "trials": [
            {
                "number": trial.number,
                "score": trial.score if trial.done else None,
                "state": "done" if trial.done else "pruned" if trial.pruned else "stopped",
                "values": trial.values,
            }
            for trial in study.trials
        ],
        "keys": [
            {"key": key, "given": study.about["search"][key], "searched": _told(among)}
            for key, among in study.space.items()
        ],
    }


def _label(study: Study) -> str:
    return study.name.partition("/")[2]


def _told(among: BaseDistribution) -> dict[str, Any]:
    """Return a range as a recipe writes it."""
    if isinstance(among, CategoricalDistribution):
        return {"choices": list(among.choices)}
    assert isinstance(among, FloatDistribution | IntDistribution)
    return {"low": among.low, "high": among.high, "log": among.log}


def _range(given: dict[str, Any]) -> str:
    if "choices" in given:
        return ", ".join(map(str, given["choices"]))
    return f"{given['low']:g} … {given['high']:g}" + (", log" if given.get("log") else "")


def _span(values: list[Any]) -> str:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return ", ".join(sorted({str(v) for v in values}))
    different = sorted(set(numbers))
    return " … ".join(f"{v:g}" for v in dict.fromkeys((different[0], different[-1]))) if different else MISSING


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Numbers in the sentences of README and docs: each is a setting, or follows from what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import stdev

import pytest
from evidence import PAGES, RESULTS, ROOT, by_seed, digits, mean, paired, perf, rounds_to, rows, strategies

from ong.projection.working import _BALANCE

MEASURED = re.compile(
    r"(?<![\w.−-])\d*\.\d+(?!\w)|\d[\d,.]* ?(?:[MGk]?B|m?s|%|seconds|minutes|times|plain steps?)(?!\w)|\d ?·? ?10[⁻⁰-⁹¹²³]+"
)
"""What looks like a measurement: a decimal, a power of ten, or a number with one of these units."""
QUIET = re.compile(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|arXiv \d+\.\d+")
"""Code, formulas, links and papers' numbers are no measurements."""

Facts = dict[str, Callable[[], tuple[float, ...]]]
SETTINGS: dict[str, list[str]] = {
    "README.md": ["Python ≥ 3.11", "mean ± 95 % t-interval", "`der++` at 0.8 MB", "CC BY-SA 3.0"],
    "contributing.md": ["Python 3.12 with torch 2.6 and Python 3.13 with torch 2.14"],
    "gpu-and-clusters.md": ["for at most about 20 seconds a strategy"],
    "methods.md": [
        "100 times as large, and a `strength` of EWC about 100 times as small", "or 2 GB, goes to matrices",
        "F_c = diag(.01, 1)", "mean ± 95 % t-interval", "`ong-replay` at 2 MB, `der++` at 0.8 MB. At 32 MB",
        "from 1 to 32 MB", "too few at 32 MB", "there the rate is .01", "Avalanche 0.6", "(1 MB is 10⁶ bytes)",
    ],
    "metrics.md": ["95 % t-intervals"],
    "performance.md": [
        "no directions ≤ 2.8 at batch 10 and ≤ 2.2 at 64", "or 2 GB where none is given", "a weight and 48 MB", "exceed 2 GB",
        "proposes for 16 GB",
    ],
    "results.md": ["more than 100 % of what forgetting costs"],
    "published.md": ["mean ± 95 % t-interval", "2 MB hold 2,500 digits"],
    "reproducibility.md": ["ACC may differ by .01", "rates near .1"],
    "reproduction.md": ["95 % t-interval", "does not know the task (.9390)", "2,397 at 2 MB", "784-100-100-10, batch 10, 5 epochs; rate .001"],
    "rotated.md": ["methods of its kind, .92", "mean ± 95 % t-interval"],
    "strategies.md": ["Avalanche 0.6"],
    "theory.md": ["Lemma 1.3"],
    "tuning.md": ["within .002 of ACC"],
    "which-method.md": ["mean ± 95 % t-interval", "the ones at 2 MB with the values of 0.8 MB"],
}  # fmt: skip
"""By page, words around numbers that nobody measured: they define, choose or cite."""


def quoted(folder: str, start: str) -> tuple[float, ...]:
    """The numbers of a line of a folder's ``report.md``, which :mod:`tests.report` tests, as it was written."""
    lines = (RESULTS / folder / "report.md").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if start in line)
    return tuple(map(float, digits(line)))


def budgets(folder: str) -> tuple[float, ...]:
    """How far ``ong-replay`` is ahead of ``der++`` at each budget, paired by seed."""
    names = [("ong-replay" + ("" if size == 2 else f"@{size}MB"), f"der++@{size}MB") for size in (1, 2, 4, 8, 16, 32)]
    return tuple(number for one, other in names for number in paired(folder, one, other))


def others(strategy: str, benchmark: str) -> tuple[float, ...]:
    return mean("avalanche-others", strategy, "ACC", benchmark)


def spread(*values: float) -> float:
    return max(values) - min(values)


def sensitivity(strategy: str, settings: str = "", key: str = "ACC") -> list[float]:
    """What came of a strategy's runs that differ by rounding errors only."""
    runs = [row for row in rows("sensitivity") if row["strategy"] == strategy and row["settings"] == settings]
    return [float(row[key]) for row in runs]


def a_task_ends(network: str) -> float:
    """In plain steps, what ``ong-prior`` does once a task."""
    found = perf("networks")[network]
    return sum(found[part] for part in ("directions", "Gram", "curvature", "metric")) / found["step"]["naive"]


def weights(network: str) -> float:
    return float(perf("networks")[network]["parameters"])


def refreshes(name: str) -> float:
    """How long a refresh takes, by curvlinops'."""
    seconds = perf("refresh")["seconds"]
    return float(seconds[name] / seconds["curvlinops"])


def peaks(folder: str, strategy: str) -> list[float]:
    """The most memory that the processes of a strategy's runs took, where it was kept."""
    paths = (RESULTS / folder / strategy).glob("seed-*/environment.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [machine["peak_bytes"] for machine in found if "peak_bytes" in machine]


def epyc(batch: int, name: str, key: str = "by naive") -> float:
    return float(perf("steps-epyc")[f"batch {batch}"][name][key])


FULL = "rotated-mnist-full"
NETWORKS = ("slim-resnet18", "vit-tiny", "resnet18")
FACTS: dict[str, Facts] = {
    "gpu-and-clusters.md": {
        "take .56 of one job's time": lambda: (perf("jobs")["share"],),
        "2.0 GB on `rotated-mnist` with 32 MB": lambda: (
            max(peaks("rotated-mnist", "ong-replay@32MB")) / 1e9, 32,
        ),
    },
    "methods.md": {
        "by .014 ± .003, .010 ± .002, .007 ± .003, .006 ± .002, .003 ± .002 and .008 ± .002 on Permuted": lambda: budgets(
            "permuted-mnist"
        ),
        "by .005 ± .004, .005 ± .003, .007 ± .003, .007 ± .003, .006 ± .002 and .009 ± .002 on Rotated": lambda: budgets(
            "rotated-mnist"
        ),
        "`ong-prior-adam` has ACC .927 ± .002": lambda: mean("permuted-mnist", "ong-prior-adam"),
        "`ong-prior` .930 ± .001": lambda: mean("permuted-mnist", "ong-prior"),
    },
    "performance.md": {
        "a `Naive` step takes .27 and .51 ms": lambda: (epyc(10, "naive", "ms a step"), epyc(64, "naive", "ms a step")),
        "the four were 4.2, 2.6, 3.8 and 14": lambda: (
            *(epyc(batch, "ong-prior, no directions") for batch in (10, 64)),
            *(epyc(64, f"ong-prior, M = {count}") for count in (100, 1000)),
        ),
        "costs `ong-prior` 191, 220 and 195 plain steps": lambda: tuple(map(a_task_ends, NETWORKS)),
        "does 3.5 operations while it reads a byte they are equal at T = 7": lambda: (_BALANCE / 2, _BALANCE),
        "65 tokens that is 39 times less": lambda: (65, 2 * 100**2 * 65 / (2 * 100 * (65 + 100))),
        "1 + 400/96 = 5.2 plain ones": lambda: (1, 4 * 100, 6 * 16, 1 + 4 * 100 / (6 * 16)),
        "at 20 GB a second: .04 s for `slim-resnet18`, .11 s for `vit-tiny`, .45 s for `resnet18`": lambda: (
            20, *(800 * weights(network) / 20e9 for network in NETWORKS),
        ),
        ".8 of the third's, so 1.8 plain steps": lambda: (
            part := 800 * weights("resnet18") / 20e9 / perf("networks")["resnet18"]["step"]["naive"], 1 + part,
        ),
        "take 400 bytes a weight: .44, 1.1 and 4.5 GB": lambda: (400, *(400 * weights(network) / 1e9 for network in NETWORKS)),
        "is 106, 133 and 91 plain steps for": lambda: tuple(
            perf("networks")[network]["curvature by operations"] for network in NETWORKS
        ),
        "measured were 136, 162 and 123": lambda: tuple(
            perf("networks")[network]["curvature"] / perf("networks")[network]["step"]["naive"] for network in NETWORKS
        ),
        "columns) numbers, 11 % for `vit-tiny`": lambda: (
            100 * 6 * 65**2 / (65 * (4 * (192 + 193) + (768 + 193) + (192 + 769))),
        ),
        "216 MB for OGD and `vit-tiny`": lambda: (perf("networks")["vit-tiny"]["kept"]["ogd"] / 2e6,),
        "curvlinops' (.99 of it)": lambda: (refreshes("ong, rademacher, 100 leading columns"),),
        "all columns 1.2 times as long": lambda: (refreshes("ong, mc"),),
    },
    "published.md": {
        "is .001 ± .001 below `joint` at 8 MB and .013 ± .003 at 2 MB": lambda: (
            *paired(FULL, "ong-replay@8MB", "joint"), 8, *paired(FULL, "ong-replay", "joint"), 2,
        ),
        "above `der++` by .005 ± .004 and .003 ± .004": lambda: (
            *paired(FULL, "ong-replay@8MB", "der++@8MB"), *paired(FULL, "ong-replay", "der++@2MB"),
        ),
        "lower by 12.8 ± 1.0 on all digits and by 28.2 ± 3.5 on 10,000": lambda: (
            *quoted("mnist-autoencoder-60k", "> ngd against sgd")[-2:],
            *quoted("mnist-autoencoder", "> ngd against sgd")[-2:], 10_000,
        ),
    },
    "reproducibility.md": {
        "`ewc` had .824 on one machine and .840 on another": lambda: tuple(sorted(sensitivity("ewc")[:2])),
        "above −.05, runs agree within .003": lambda: (
            -0.05, max(spread(*sensitivity(name)) for name in ("ong-prior", "owm", "joint", "replay")),
        ),
        "It spreads over .020 for `ewc` (.822 to .842": lambda: (
            spread(*sensitivity("ewc")), min(sensitivity("ewc")), max(sensitivity("ewc")),
        ),
        "over .123 for `naive`": lambda: (spread(*sensitivity("naive", "optimizer.lr=0.12")),),
        "agree within .002.": lambda: (spread(*sensitivity("ewc", "optimizer.lr=0.03")),),
        "moves by about .004 from machine to machine (the standard deviation of the seven runs, .008": lambda: (
            stdev(sensitivity("ewc")) / 5**0.5, stdev(sensitivity("ewc")),
        ),
    },
    "reproduction.md": {
        "on four tasks (.966, and .965 at its own)": lambda: (*mean("rates", "gpm-double"), *mean("rates", "gpm")),
        "they are .004 ± .004, .006 ± .005 and .005 ± .002 below our own `joint`": lambda: (
            *paired("permuted-mnist-gpm", "ong-replay", "joint"), *paired("permuted-mnist-gpm", "ncl", "joint"),
            *paired("permuted-mnist-gpm", "ong-prior", "joint"),
        ),
        "the forgetting is .008": lambda: mean("permuted-mnist-gpm", "ong-prior", "forgetting")[:1],
    },
    "rotated.md": {
        "ACC is higher by .006 ± .004, paired": lambda: paired("rotated-trials", "ong-prior-no-pull", "ong-prior"),
        "rises from .888 to .919, and forgetting from .014 to .032": lambda: tuple(
            mean("rotated-trials", name, key)[0]
            for key in ("learning_accuracy", "forgetting") for name in ("ong-prior", "ong-prior-no-pull")
        ),
        "that, with .936 at 2 MB": lambda: (mean("rotated-mnist", "ong-replay")[0], 2),
    },
    "strategies.md": {
        "it has ACC .929 ± .065, naive training .485 ± .007": lambda: (
            *others("generative-replay", "split-mnist-class"), *others("naive", "split-mnist-class"),
        ),
        ".816 ± .050 against .859 ± .046": lambda: (
            *others("generative-replay", "permuted-mnist"), *others("naive", "permuted-mnist"),
        ),
        "it has .964 ± .047, `packnet` .948 ± .032": lambda: (
            *others("naive", "split-digits"), *others("packnet", "split-digits"),
        ),
    },
    "which-method.md": {
        "Best and worst are .025 apart": lambda: (
            spread(*(mean("split-mnist-task", name)[0] for name in strategies("split-mnist-task") if name != "der++")),
        ),
        "seeds at .913 to .915, and one at .732": lambda: (
            *(seeds := sorted(by_seed("split-mnist-class", "der++@2MB", "ACC").values()))[1::3], seeds[0],
        ),
    },
}  # fmt: skip
"""By page, sentences with numbers, and what they follow from, in their order."""


def prose(path: Path) -> str:
    """A page without tables, headings and blocks of code, in one line."""
    parts = re.split(r"^```.*\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[::2]
    lines = (line.strip() for part in parts for line in part.splitlines())
    return " ".join(line for line in lines if line and not line.startswith(("|", "#")))


def unaccounted(path: Path) -> list[str]:
    """Return what looks like a measurement and is neither a setting nor a fact."""
    text = prose(path)
    for known in (*SETTINGS.get(path.name, []), *FACTS.get(path.name, {})):
        text = text.replace(known, "…")
    text = QUIET.sub("…", text)
    return [text[max(0, found.start() - 40) : found.end()] for found in MEASURED.finditer(text)]


@pytest.mark.parametrize("path", sorted({*PAGES, *(ROOT / "docs").glob("*/*.md")}), ids=lambda path: path.name)
def test_every_number_is_a_setting_or_follows_from_records(path: Path) -> None:
    assert unaccounted(path) == []


@pytest.mark.parametrize(("page", "words"), [(page, words) for page, facts in FACTS.items() for words in facts])
def test_a_fact_is_what_was_measured(page: str, words: str) -> None:
    written, values = digits(QUIET.sub("…", words)), FACTS[page][words]()
    assert len(written) == len(values)
    assert [number for number, value in zip(written, values, strict=True) if not rounds_to(value, number)] == []


@pytest.mark.parametrize("page", sorted({*SETTINGS, *FACTS}))
def test_words_said_to_be_on_a_page_are_there(page: str) -> None:
    (path,) = (path for path in PAGES if path.name == page)
    text = prose(path)
    assert [words for words in (*SETTINGS.get(page, []), *FACTS.get(page, {})) if words not in text] == []


def test_a_number_that_nobody_accounted_for_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "methods.md"
    path.write_text(
        "# .1\n\nIt has ACC .123 and\n12 MB (`.4`, arXiv 2508.17169)\n\n| .5 |\n```\n.6\n```\nAvalanche 0.6\n"
    )
    assert unaccounted(path) == ["It has ACC .123", "It has ACC .123 and 12 MB"]

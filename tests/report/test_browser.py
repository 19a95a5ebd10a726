"""The page in a browser: what is clicked happens, in the table and in the charts, and nothing is fetched or fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import browse as browse_page
from browser import needs_chromium
from fake_records import record, write_record, write_runs

from ong.report.page import page
from ong.report.reading import read_runs

pytestmark = needs_chromium

NAMES = ["naive", "ogd", "gpm", "er-replay", "joint"]
TOOLS = """
const article = document.querySelector("article");
const shown = () => [...article.querySelectorAll("table.summary tbody tr[data-strategy]")].filter((r) => !r.hidden)
  .map((r) => r.dataset.strategy);
const box = (name, value) => [...document.querySelectorAll(`input[name=${name}]`)].find((b) => b.value === value);
const head = (key) => article.querySelector(`table.summary th[data-sort="${key}"] button`);
const chart = (kind) => article.querySelector(`[data-chart="${kind}"]`);
const lines = (kind) => chart(kind).data.filter((t) => t.visible === true && t.showlegend !== false && t.meta).map((t) => t.meta);
const until = async (is) => { while (!is()) await new Promise(requestAnimationFrame); };
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_runs(tmp_path, NAMES, seeds=3, tasks=4)


def browse(folder: Path, script: str, address: str = "", **window: Any) -> Any:
    """Open the page of a folder's records, run a script in it and return what it returns."""
    path = folder / "page.html"
    path.write_text(page(read_runs(folder)), encoding="utf-8")
    return browse_page(path, script, address, tools=TOOLS, **window)


def test_the_table_sorts_by_any_column_and_says_which(folder: Path) -> None:
    orders = browse(
        folder,
        """
        const found = [shown()];
        for (const key of ["ACC", "forgetting", "forgetting", "strategy", "memory_bytes"]) { head(key).click(); found.push(shown()); }
        return [found, head("memory_bytes").parentElement.getAttribute("aria-sort"), location.hash];
        """,
    )
    (first, acc, less, more, alphabet, memory), said, address = orders
    (runs,) = read_runs(folder)
    assert first == acc == runs.strategies
    assert less == ["gpm", "er-replay", "ogd", "naive", "joint"]  # least first, what has none last
    assert more == ["naive", "ogd", "er-replay", "gpm", "joint"]
    assert alphabet == sorted(NAMES)
    assert memory == ["er-replay", "ogd", "gpm", "naive", "joint"]
    assert said == "descending"
    assert address == "#?b1.down=memory_bytes"


def test_strategies_and_needs_filter_the_table_and_every_chart_and_are_kept_in_the_address(folder: Path) -> None:
    found = browse(
        folder,
        """
        box("strategy", "ogd").click();
        box("need", "stored examples").click();
        const cards = [...document.querySelectorAll("details.card")].filter((c) => !c.hidden).map((c) => c.dataset.follow);
        return [shown(), lines("curves"), lines("cost"), lines("change"), lines("diagnostic"), cards, location.hash];
        """,
    )
    assert found[0] == ["joint", "gpm", "naive"]
    assert [sorted(lines) for lines in found[1:5]] == [
        ["gpm", "joint", "naive"], ["gpm", "joint"], ["gpm", "naive"], ["gpm"]
    ]  # fmt: skip  # naive keeps no bytes and has no leak
    assert found[5] == found[0]
    assert found[6] == "#?b1.off=ogd&b1.without=stored+examples"
    again = browse(folder, "return [shown(), lines('curves'), box('strategy', 'ogd').checked];", found[6])
    assert again == [found[0], ["joint", "gpm", "naive"], False]


def test_a_name_in_a_legend_toggles_its_strategy_everywhere(folder: Path) -> None:
    found = browse(
        folder,
        """
        const place = chart("change").data.findIndex((t) => t.meta === "naive");
        chart("change").emit("plotly_legendclick", { data: chart("change").data, curveNumber: place });
        const off = [shown(), lines("curves"), box("strategy", "naive").checked];
        chart("change").emit("plotly_legendclick", { data: chart("change").data, curveNumber: place });
        const on = shown();
        chart("curves").emit("plotly_legenddoubleclick", { data: chart("curves").data, curveNumber: 0 });
        return [off, on, shown()];
        """,
    )
    (table, lines, checked), on, alone = found
    assert "naive" not in [*table, *lines]
    assert not checked
    assert on == read_runs(folder)[0].strategies
    assert alone == ["joint"]


def test_hovering_tells_the_values(folder: Path) -> None:
    found = browse(
        folder,
        """
        const place = chart("curves").data.findIndex((t) => t.meta === "gpm" && t.mode === "lines+markers");
        Plotly.Fx.hover(chart("curves"), [{ curveNumber: place, pointNumber: 3 }]);
        await until(() => chart("curves").querySelector(".hoverlayer").textContent);
        return [chart("curves").querySelector(".hoverlayer").textContent, chart("curves").data[place].y[3]];
        """,
    )
    assert found[0].startswith(f"gpm4 tasks seen: {found[1]:.3f} ± 0.")


def test_groups_of_memory_have_a_heading_and_their_own_best(folder: Path) -> None:
    found = browse(
        folder,
        """
        const form = article.querySelector("form.controls");
        form.elements.group.click();
        const rows = [...article.querySelectorAll("table.summary tbody tr")].map((r) => r.dataset.strategy || r.textContent);
        const bold = [...article.querySelectorAll('table.summary td.best[data-key="ACC"]')].map((c) => c.parentElement.dataset.strategy);
        return [rows, bold, location.hash];
        """,
    )
    assert found[0] == [
        "keeps nothing", "naive", "keeps up to 4 MB", "gpm", "keeps up to 8 MB", "er-replay", "ogd", "bytes unknown", "joint"
    ]  # fmt: skip
    assert found[1] == ["naive", "gpm", "er-replay"]
    assert found[2] == "#?b1.group=memory"


def test_columns_on_request_and_diagnostics_can_be_chosen(folder: Path) -> None:
    found = browse(
        folder,
        """
        const visible = () => [...article.querySelectorAll("table.summary th[data-key]")].filter((e) => !e.hidden).map((e) => e.dataset.key);
        const before = visible();
        box("column", "evaluate_seconds").click();
        box("column", "FWT").click();
        const select = article.querySelector("select.quantity");
        select.value = "memory_bytes";
        select.dispatchEvent(new Event("change"));
        return [before, visible(), chart("diagnostic").layout.yaxis.title.text];
        """,
    )
    before, after, title = found
    assert set(after) == {*before, "evaluate_seconds"} - {"FWT"}
    assert title == "Memory"


def test_dark_and_printed_pages_draw_with_their_own_colours(folder: Path) -> None:
    colours = "return [chart('curves').layout.font.color, getComputedStyle(document.body).color];"
    light = browse(folder, colours)
    assert light == ["#1d2733", "rgb(29, 39, 51)"]
    dark = browse(folder, colours, dark=True)
    assert dark == ["#dbe2ea", "rgb(219, 226, 234)"]
    printed = "dispatchEvent(new Event('beforeprint')); return [chart('curves').layout.font.color, chart('curves').layout.width];"
    assert browse(folder, printed, dark=True) == ["#1d2733", 680]


def test_a_phone_shows_the_page_without_scrolling_sideways(folder: Path) -> None:
    script = "return [document.documentElement.scrollWidth, innerWidth];"
    width, window = browse(folder, script, width=400)
    assert width <= window


def test_hostile_names_are_printed_as_they_stand(tmp_path: Path) -> None:
    name = '<img src=x onerror=alert(1)> </script> "quoted" & $x$'
    for seed in range(2):
        content = record("ogd", seed, tasks=3)
        path = write_record(tmp_path, content)
        content["strategy"]["name"] = name
        path.write_text(json.dumps(content))
    found = browse(
        tmp_path,
        """
        const text = chart("curves").querySelector(".legendtext").textContent;
        return [shown(), document.images.length, text];
        """,
    )
    assert found == [[name], 0, name]

"""The report: figures that can be checked by hand, comparison, and no text of a host that could become markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hetero_tui.run_report import run_figures
from hetero_tui.run_report_pages import html_page, markdown_page
from hetero_tui.run_report_plots import Series, line_plot, ticks
from hetero_tui.run_report_tables import comparison
from hetero_tui.windows import Point
from tests.unit.stored import stored_run
from tests.unit.test_cli import hetero_tui


def test_figures_are_those_of_the_steps(tmp_path: Path) -> None:
    figures = run_figures(stored_run(tmp_path))
    assert figures.steps == 40
    assert figures.samples_per_second == pytest.approx(60)
    assert figures.step_seconds == pytest.approx(1)
    assert figures.efficiency == pytest.approx(60 / (40 / 0.8 + 20 / 0.8))
    assert figures.wait == pytest.approx(0.1)
    assert figures.gpu_percent == 90
    assert [rank.speed for rank in figures.ranks] == pytest.approx([50, 25])
    assert figures.ranks[1].hardware.highest_temperature == 100
    (prediction,) = figures.predictions
    assert prediction.steps == 40
    assert prediction.measured == pytest.approx(60)
    assert prediction.error == pytest.approx(0.1)


def test_runs_are_compared_with_the_first(tmp_path: Path) -> None:
    runs = [
        run_figures(stored_run(tmp_path, "20260101-120000-0001", policy="equal", slower=2.0)),
        run_figures(stored_run(tmp_path, "20260101-120000-0002")),
    ]
    table = comparison(runs)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["against first"] for row in rows] == ["1.00×", "2.00×"]
    assert [row["policy"] for row in rows] == ["equal", "dynamic"]
    assert rows[0]["step"] == "2000.0 ms"
    assert "| 20260101\\-" not in markdown_page(runs)
    assert "2.00×" in html_page(runs)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_nothing_in_it_can_run_or_load(tmp_path: Path) -> None:
    page = html_page([run_figures(stored_run(tmp_path))])
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert not tags.seen & {"script", "img", "link", "iframe", "object", "a"}
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href")}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x1b" not in page
    assert not re.search(r"https?://", page)
    assert "@media print" in page
    assert "color-scheme: light dark" in page


def test_markdown_shows_hostile_text_as_it_is(tmp_path: Path) -> None:
    page = markdown_page([run_figures(stored_run(tmp_path))])
    assert "<script>" not in page
    rows = [line for line in page.splitlines() if "alert" in line]
    assert rows
    assert all(r"\<script\>" in line and r"\|x\|" in line for line in rows)


def test_ticks_are_round_and_within_the_range() -> None:
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(0.13, 0.29) == pytest.approx([0.15, 0.2, 0.25])
    assert ticks(5, 5) == [5]
    assert ticks(float("nan"), 1) == []


def test_a_plot_copes_with_no_data_one_point_and_a_flat_line() -> None:
    assert "no data" in line_plot("x", [Series("a", ())], x_name="", y_name="")
    for points in ((Point(3, 1, 1, 1),), (Point(0, 0, 0, 0), Point(1, 0, 0, 0))):
        assert "polyline" in line_plot("x", [Series("a", points, has_band=True)], x_name="", y_name="")


def test_the_command_writes_both_files_and_tells_their_figures(tmp_path: Path) -> None:
    first = stored_run(tmp_path / "experiments", "20260101-120000-0001", policy="equal", slower=2.0)
    stored_run(tmp_path / "experiments", "20260101-120000-0002")
    answer = hetero_tui("report", first.run_id, "latest", "--output", "out", "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert [run["against_first"] for run in document["runs"]] == [1.0, 2.0]
    assert (tmp_path / document["html"]).read_text().startswith("<!doctype html>")
    assert (tmp_path / document["markdown"]).read_text().startswith("# 2 runs compared")


def test_an_unknown_run_is_the_persons_mistake(tmp_path: Path) -> None:
    stored_run(tmp_path / "experiments", "20260101-120000-0001")
    stored_run(tmp_path / "experiments", "20260101-120000-0002")
    for command in ("report", "replay"):
        for named in ("nope", "2026"):
            answer = hetero_tui(command, named, cwd=tmp_path)
            assert answer.returncode == 2
            assert "20260101-120000-0002" in answer.stderr
            assert "Traceback" not in answer.stderr


def test_replay_prints_every_event_and_then_the_result(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "experiments")
    answer = hetero_tui("replay", str(run.run_dir.path), "--json", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    *lines, last = [json.loads(line) for line in answer.stdout.splitlines()]
    assert {line["kind"] for line in lines} == {"did", "event", "line"}
    assert sum(line["kind"] == "event" and line["event"]["kind"] == "step" for line in lines) == 80
    assert (last["kind"], last["result"]["state"], last["result"]["steps"]) == ("result", "finished", 40)
    told = hetero_tui("replay", "--from", "20", "--json", cwd=tmp_path)
    assert 0 < len(told.stdout.splitlines()) < len(answer.stdout.splitlines())
    assert hetero_tui("replay", "--speed", "-1", cwd=tmp_path).returncode == 2


def test_runs_are_listed(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "experiments")
    answer = hetero_tui("runs", "--json", cwd=tmp_path)
    (listed,) = json.loads(answer.stdout)["runs"]
    assert (listed["run"], listed["world_size"], listed["ended"]) == (run.run_id, 2, "well")
    (run.run_dir.path / "plan.json").write_text("{")
    damaged = hetero_tui("runs", cwd=tmp_path)
    assert damaged.returncode == 0
    assert "damaged" in damaged.stdout

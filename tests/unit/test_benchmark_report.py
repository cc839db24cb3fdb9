"""The form of the benchmarks: table, JSON, exit codes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.report import Figure, Options, at_least, at_most, failed, machine, main, measured, skipped
from benchmarks.trainer_balance import steps_to_settle
from benchmarks.trainer_faults import pause_around


def some(options: Options) -> Iterator[Figure]:
    yield at_least("speed", 0.98, 0.97, anchor="ideal")
    yield at_most("start_s", 0.6 if options.quick else 0.4, 0.5)
    yield measured("plain", 3.0, "MB")
    yield skipped("gpu", "no GPU here", "x")


def failing(_: Options) -> Iterator[Figure]:
    yield measured("strict", 1.5, "x", comparison=">", goal=1.5)


def test_figures_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert main("example", some, ["--json", str(file)]) == 0
    table = capsys.readouterr().out
    assert "speed" in table
    assert ">= 0.97" in table
    assert "skipped: no GPU here" in table
    document = json.loads(file.read_text())
    assert document["benchmark"] == "example"
    assert document["quick"] is False
    assert document["machine"]["cpus"] >= 1
    assert document["figures"][0] == {
        "id": "speed", "value": 0.98, "unit": "x", "target": ">= 0.97", "met": True, "anchor": "ideal",
    }  # fmt: skip
    assert [figure["met"] for figure in document["figures"]] == [True, True, None, None]
    assert document["figures"][3]["value"] is None


def test_a_missed_target_is_an_exit_code_and_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("example", failing, []) == 1
    assert "MISSED" in capsys.readouterr().out
    # A quick run proves nothing, so it cannot fail a target either.
    assert main("example", some, ["--quick"]) == 0
    assert "MISSED" in capsys.readouterr().out


def test_more_than_can_be_is_not_proven_instead_of_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cluster quicker than the sum of its ranks says that the ranks alone were measured wrongly."""
    file = tmp_path / "figures.json"

    def ratios(_: Options) -> Iterator[Figure]:
        yield at_least("whole_of_parts", 1.212, 0.97, ceiling=1.02)
        yield at_least("within_noise", 1.01, 0.97, ceiling=1.02)

    assert main("example", ratios, ["--json", str(file)]) == 1
    table = capsys.readouterr().out
    assert "UNPROVEN" in table
    assert "more than 1.02 cannot be" in table
    wrong, right = json.loads(file.read_text())["figures"]
    assert (wrong["met"], wrong["proven"]) == (False, False)
    assert right["met"] is True
    assert "proven" not in right


def test_a_broken_measurement_fails_even_a_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert main("example", lambda _: iter([failed("pause_s", "the run ended")]), ["--quick", "--json", str(file)]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert json.loads(file.read_text())["figures"][0]["met"] is False


def test_only_some_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("example", some, ["--only", "sta", "--only", "gpu"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["start_s", "gpu"]
    assert last.startswith("met: ")
    assert Options(only=("a_",)).wants("b_1", "a_2")
    assert not Options(only=("a_",)).wants("b_1")


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("example", some, ["--json", str(tmp_path / "none" / "x.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_failed_measurement_is_no_figure() -> None:
    with pytest.raises(ValueError, match="measured nan"):
        measured("broken", math.nan)


@pytest.mark.parametrize(("comparison", "met"), [(">=", True), (">", False), ("<=", True), ("<", False)])
def test_goals_include_their_border_or_not(comparison: str, met: bool) -> None:
    assert Figure(id="x", value=1.0, comparison=comparison, goal=1.0).met is met  # type: ignore[arg-type]


def test_the_machine_is_described_without_its_name() -> None:
    import socket

    described = machine()
    assert described["memory_bytes"] > 1 << 28
    assert described["processor"]
    assert socket.gethostname() not in json.dumps(described)


def test_settling_counts_steps_until_the_shares_stay() -> None:
    wrong, right = (150, 70, 36), (100, 104, 52)
    assert steps_to_settle([right] * 30) == 0
    assert steps_to_settle([wrong] * 4 + [right] * 30) == 4
    # Coming back to wrong shares is not settled.
    assert steps_to_settle([wrong] * 2 + [right] * 3 + [wrong] + [right] * 30) == 6
    assert steps_to_settle([(102, 103, 51)] * 5 + [right] * 30) == 0


def test_a_pause_is_the_longest_gap_after_the_fault_less_a_step() -> None:
    ends = [1.0, 1.1, 1.2, 1.9, 2.0, 2.1]
    assert pause_around(ends, struck=1.25, usual=0.1) == pytest.approx(0.6)
    # A step that was over but for its last act ends just after the fault; the gap that follows counts.
    assert pause_around(ends, struck=1.19, usual=0.1) == pytest.approx(0.6)
    assert pause_around(ends, struck=1.95, usual=0.1) == pytest.approx(0.0)

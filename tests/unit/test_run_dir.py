"""The folder of a run: nothing is lost, nothing escapes, and another instance can take over."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote.checks.model import CheckResult, Finding, Fix, Verdict
from remote.errors import UserError
from remote.facts import EngineSocket, Facts, Gpu
from remote.plan import HostPlan, LaunchPlan, RankPlan
from remote.run_dir import RunDir, RunDirError, file_name, new_run_id, write_atomically
from remote.runtime import LogLine
from remote.stored_lines import BLOCK_CHARACTERS, StoredLine
from trainer.events import Failed, Notice, Output, Step, encode

RUN_ID = "20261123-034500-ab12"
PLAN = LaunchPlan(
    run_id=RUN_ID,
    cluster="home",
    master="a",
    master_address="192.168.1.1",
    master_port=29500,
    backend="gloo",
    world_size=1,
    hosts=(
        HostPlan(
            host="a",
            runtime="docker",
            ranks=(RankPlan(0, 0, "cuda:0", "GPU-1"),),
            container_name="hetero-home-a",
            image="i",
            argv=("python3", "-m", "trainer"),
            env=(("A", "ü"),),
            labels=(("hetero-tui.run", RUN_ID),),
            gpu_uuids=("GPU-1",),
            mounts=(("/data", "/hetero/data", "ro"),),
        ),
    ),
    global_batch=64,
    policy="dynamic",
    notes=("why",),
)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    with RunDir.create(tmp_path, "home", RUN_ID) as created:
        yield created


def _lines(*texts: str) -> list[LogLine]:
    return [LogLine(text, f"p{number}") for number, text in enumerate(texts)]


def test_a_run_id_tells_the_time_and_sorts_by_it() -> None:
    assert new_run_id(lambda: 1795405500.9, lambda: "ab12") == "20261123-034500-ab12"
    assert new_run_id(lambda: 1795405501.0, lambda: "0000") > new_run_id(lambda: 1795405500.0, lambda: "ffff")


def test_run_ids_of_one_second_differ() -> None:
    assert len({new_run_id(lambda: 0.0) for _ in range(8)}) > 1


def test_a_run_is_created_once(tmp_path: Path, run: RunDir) -> None:
    assert run.path == tmp_path / "home" / RUN_ID
    assert run.run_id == RUN_ID
    with pytest.raises(RunDirError, match="exists already"):
        RunDir.create(tmp_path, "home", RUN_ID)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="--experiments"):
        RunDir.create(tmp_path / "file", "home", RUN_ID)


def test_a_run_is_opened_or_the_known_ones_are_named(tmp_path: Path, run: RunDir) -> None:
    assert RunDir.open(tmp_path, "home", RUN_ID).path == run.path
    with pytest.raises(RunDirError, match=RUN_ID) as caught:
        RunDir.open(tmp_path, "home", "20250101-000000-0000")
    assert isinstance(caught.value, UserError)
    with pytest.raises(RunDirError, match="none"):
        RunDir.open(tmp_path, "other", RUN_ID)


def test_open_or_create(tmp_path: Path, run: RunDir) -> None:
    assert RunDir.open_or_create(tmp_path, "home", RUN_ID).path == run.path
    assert RunDir.open_or_create(tmp_path, "other", RUN_ID).path.is_dir()


def test_the_latest_run_is_the_newest_by_name(tmp_path: Path) -> None:
    assert RunDir.latest(tmp_path, "home") is None
    for run_id in ("20261123-034501-0000", "20261123-034500-ffff", "20251123-034500-ffff"):
        RunDir.create(tmp_path, "home", run_id)
    (tmp_path / "home" / "zzz").mkdir()
    (tmp_path / "home" / "20991123-034500-ffff").write_text("a file is no run")
    latest = RunDir.latest(tmp_path, "home")
    assert latest is not None
    assert latest.run_id == "20261123-034501-0000"


def test_documents_come_back_as_they_were(run: RunDir) -> None:
    facts = {
        "a": Facts(
            host="a",
            cpu_quota=1.5,
            addresses=(("eth0", "192.168.1.1"),),
            gpus=(Gpu(0, "RTX", "GPU-1", 8 << 30, "550", "8.6"),),
            engine_sockets=(EngineSocket("/run/docker.sock", writable=True),),
            raw=(("k", "\x1b[31m"),),
        )
    }
    checks = [CheckResult("ssh", "a", Finding(Verdict.FAIL, "no", "evidence", Fix("do", ("sudo x",), "a")), 0.5)]
    run.write_plan(PLAN)
    run.write_facts(facts)
    run.write_checks(checks)
    run.write_inventory('name = "ü"\r\n')
    assert run.read_plan() == PLAN
    assert run.read_facts() == facts
    assert run.read_checks() == checks
    assert (run.path / "cluster.toml").read_bytes() == 'name = "ü"\r\n'.encode()
    assert json.loads((run.path / "plan.json").read_text())["run_id"] == RUN_ID


def test_a_damaged_or_missing_document_is_the_persons_to_mend(run: RunDir) -> None:
    with pytest.raises(RunDirError, match=r"cannot read .*plan\.json: No such file"):
        run.read_plan()
    (run.path / "plan.json").write_text('{"run_id": 5')
    with pytest.raises(RunDirError, match=r"plan\.json is damaged"):
        run.read_plan()
    (run.path / "plan.json").write_text('{"run_id": 5}')
    with pytest.raises(RunDirError, match=r"plan\.json is damaged: run_id"):
        run.read_plan()


def test_a_failed_write_leaves_the_old_document_and_no_rest(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.path / "x.json"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("remote.run_dir.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert sorted(each.name for each in run.path.iterdir()) == ["logs", "x.json"]


def test_lines_come_back_in_order_with_their_positions(run: RunDir) -> None:
    run.append("a", [LogLine("one", "1"), LogLine("two", "2", "stderr")])
    run.append("b", [LogLine("three", "x")])
    run.append("a", [])
    assert list(run.lines()) == [
        StoredLine("a", "one", "1"),
        StoredLine("a", "two", "2", "stderr"),
        StoredLine("b", "three", "x"),
    ]
    assert run.positions() == {"a": "2", "b": "x"}


def test_lines_that_came_together_are_one_document_behind_which_the_log_goes_on(run: RunDir) -> None:
    texts = ["", '{"ht":1,"a\\u00e9"}', "ü \u2028 \x1b[0m", "with\nnewline", "a\r", ""]
    batch = [*_lines(*texts), LogLine("aside", "e1", "stderr"), LogLine("", "e2", "stderr")]
    run.append("a", batch, at=5.0)
    assert [(line.text, line.stream) for line in run.lines()] == [(line.text, line.stream) for line in batch]
    ends = [line.position for line in run.lines() if line.position]
    assert ends == ["p2", "p3", "p5", "e2"], "a newline in a line, or another stream, begins a new document"
    assert run.positions() == {"a": "e2"}
    assert {record["at"] for record in run.records()} == {5.0}


def test_long_lines_do_not_pile_up_in_one_document(run: RunDir) -> None:
    batch = _lines(*("x" * (BLOCK_CHARACTERS // 2 + 1) for _ in range(5)), "last")
    run.append("a", batch)
    assert [line.text for line in run.lines()] == [line.text for line in batch]
    assert [line.position for line in run.lines() if line.position] == ["p1", "p3", "p5"]


def test_a_damaged_document_gives_no_lines_and_the_log_goes_on_before_it(run: RunDir) -> None:
    run.append("a", _lines("one", "two"))
    run.close()
    with gzip.open(run.events_path, "ab") as file:
        file.write(b'{"at":1,"host":"a","position":"p9","count":3,"lines":"only\\ntwo"}\n')
    assert [line.text for line in run.lines()] == ["one", "two"]
    assert run.positions() == {"a": "p1"}


def test_a_run_without_lines_has_none(run: RunDir) -> None:
    assert list(run.lines()) == []
    assert run.positions() == {}


def test_appended_lines_are_there_for_another_process_at_once(run: RunDir) -> None:
    run.append("a", _lines("x"))
    read = "import sys, remote.run_dir as r; print(*(line.text for line in r.RunDir(r.Path(sys.argv[1])).lines()))"
    seen = subprocess.run([sys.executable, "-c", read, run.path], capture_output=True, text=True, check=True)
    assert seen.stdout == "x\n"


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1))
def test_any_text_survives_byte_for_byte(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    run = RunDir(tmp_path_factory.mktemp("run"))
    with run:
        run.append("a", _lines(*texts, "\ud800 half a pair"))
    assert [line.text for line in run.lines()] == [*texts, "\ud800 half a pair"]


def test_a_line_that_a_crash_cut_short_is_left_out_and_then_removed(run: RunDir) -> None:
    run.append("a", _lines("one"))
    after_one = run.events_path.stat().st_size
    run.append("a", _lines("two"))
    run.close()
    content = run.events_path.read_bytes()
    for cut in range(1, len(content)):
        run.events_path.write_bytes(content[:-cut])
        found = [line.text for line in run.lines()]
        assert found == ["one", "two"][: len(found)]
        assert found or len(content) - cut < after_one
        with RunDir(run.path) as again:
            again.append("a", [LogLine("after", "9")])
        assert [line.text for line in run.lines()] == [*found, "after"]


def test_what_is_no_recording_is_removed(run: RunDir) -> None:
    run.append("a", _lines("one"))
    run.close()
    with run.events_path.open("ab") as file:
        file.write(b"x" * 200_000)
    assert [line.text for line in run.lines()] == ["one"]
    run.append("a", _lines("two"))
    assert [line.text for line in run.lines()] == ["one", "two"]


def test_lines_that_are_no_records_are_passed_over(run: RunDir) -> None:
    run.append("a", _lines("one"))
    run.close()
    with gzip.open(run.events_path, "ab") as file:
        file.write(
            b"\n5\n[]\n{}\nnot json\n\xff\xfe\n" + b"[" * 100_000 + b"\n" + b'{"host":1,"position":"","line":""}\n'
        )
    run.append("a", _lines("two"))
    assert [line.text for line in run.lines()] == ["one", "two"]


def test_of_lines_that_came_together_a_crash_leaves_all_or_none(run: RunDir) -> None:
    run.append("a", _lines("one", "two"))
    run.append("a", [LogLine(text, position) for text, position in (("three", "p2"), ("four", "p3"))])
    run.close()
    content = run.events_path.read_bytes()
    seen = set()
    for cut in range(1, len(content)):
        run.events_path.write_bytes(content[:-cut])
        texts, position = [line.text for line in run.lines()], run.positions().get("a", "")
        seen.add(position)
        assert (texts, position) in (([], ""), (["one", "two"], "p1"), (["one", "two", "three", "four"], "p3"))
        with RunDir(run.path) as again:
            again.append("a", _lines("after", "that"))
        assert [line.text for line in run.lines()] == [*texts, "after", "that"]
    assert {"", "p1"} <= seen


def test_only_one_instance_appends(run: RunDir) -> None:
    run.append("a", _lines("one"))
    with RunDir(run.path) as other:
        with pytest.raises(RunDirError, match="another hetero-tui writes"):
            other.append("a", _lines("two"))
        assert [line.text for line in other.lines()] == ["one"]
        run.close()
        other.append("a", _lines("two"))
    assert [line.text for line in run.lines()] == ["one", "two"]


def test_the_log_file_is_for_people(run: RunDir) -> None:
    run.append(
        "a",
        _lines(
            encode(Output(rank=3, text="loss \x1b[31m2.3\x07")),
            encode(Step(rank=3, step=1)),
            encode(Notice(rank=0, level="warning", text="slow link")),
            encode(Failed(rank=1, error="ValueError: x", traceback="Traceback:\n  File\x1b")),
            "plain \x1b]0;title\x07 text",
            '{"ht":1,"kind":"output" broken',
            '{"ht":1,"kind":"unheard"}',
            "a\rb\nc\td\x9b",
        ),
    )
    assert run.log_path("a").read_text().splitlines() == [
        "[rank 3] loss \\x1b[31m2.3\\x07",
        "[rank 0] warning: slow link",
        "[rank 1] failed: ValueError: x",
        "[rank 1] Traceback:",
        "[rank 1]   File\\x1b",
        "plain \\x1b]0;title\\x07 text",
        '{"ht":1,"kind":"output" broken',
        '{"ht":1,"kind":"unheard"}',
        "a\\x0db\\x0ac\td\\x9b",
    ]
    assert len(list(run.lines())) == 8


def test_the_log_file_names_the_rank_whose_output_an_agent_relays(run: RunDir) -> None:
    plain = [encode(Output(rank=-1, seq=n, time=5.0, text=f'plain "{n}"', source_rank=n)) for n in range(2)]
    plain += [encode(Output(rank=-1, seq=n, time=5.0, text=f"{n} [x]", source_rank=n)) for n in range(2, 4)]
    run.append("a", _lines(*plain[2:]))
    run.append("a", _lines(*plain, encode(Output(rank=-1, seq=9, time=5.0, text="\x1b\x9b", source_rank=7))))
    run.append("a", _lines(plain[2].replace("2 [x]", "\x9b raw"), encode(Output(rank=-1, text="of the agent"))))
    assert run.log_path("a").read_text().splitlines() == [
        "[rank 2] 2 [x]",
        "[rank 3] 3 [x]",
        '[rank 0] plain "0"',
        '[rank 1] plain "1"',
        "[rank 2] 2 [x]",
        "[rank 3] 3 [x]",
        "[rank 7] \\x1b\\x9b",
        "[rank 2] \\x9b raw",
        "[rank -1] of the agent",
    ]


@settings(deadline=None)
@given(st.text())
def test_no_name_leaves_the_run(name: str) -> None:
    component = file_name(name)
    assert component not in ("", ".", "..")
    assert "/" not in component
    assert "\0" not in component
    assert Path("/run", component).resolve() == Path("/run", component)


@pytest.mark.parametrize("host", ["../../evil", "/etc/passwd", "..", ".", "", "a/b", "x\0y", "n" * 500])
def test_a_hostile_host_name_stays_in_the_log_folder(run: RunDir, host: str) -> None:
    run.append(host, _lines("x"))
    (log,) = (run.path / "logs").iterdir()
    assert log == run.log_path(host)
    assert [line.host for line in run.lines()] == [host]


def test_a_hostile_cluster_name_stays_in_the_experiments(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "experiments", "../out", "../../run")
    assert run.path.resolve().is_relative_to(tmp_path / "experiments")

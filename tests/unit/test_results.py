"""What becomes of a host's output folder: only good checkpoints count, and nothing is removed before it is home."""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from remote.checkpoints import newest_complete, newest_good, step_of
from remote.errors import CommandFailed, ConnectionDropped, ResultsError
from remote.inventory import parse_inventory
from remote.progress import LaunchProgress
from remote.results import Archive, HomeReport, Source, bring_home, fetch_output
from remote.resume import choose_resume, resuming
from remote.run_dir import Ended, RunDir
from remote.run_end import write_end
from remote.runtime import Fetched, FetchReport, HostRunState, HostRuntime, State
from remote.unpack import HostileArchive
from tests.unit.archives import Member, checkpoint, file, packed, special, stream
from tests.unit.launching import RUN, Reports


def source(*members: Member, newest: list[Member] | None = None) -> Source:
    """Return a host that holds these files; with ``newest``, what it sends when older ones may be left out."""

    async def archives(whole: bool) -> AsyncGenerator[Archive, None]:
        yield Archive(stream(packed(members if whole or newest is None else newest)))

    return archives


async def fetch(opened: Source, folder: Path, *, everything: bool = False) -> FetchReport:
    return await fetch_output(opened, "gpu-box", folder, Reports(), everything=everything)


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_only_the_newest_comes_unless_asked(tmp_path: Path) -> None:
    held = [*checkpoint(20, b"old"), *checkpoint(100, b"new"), file("checkpoints/step-00000101.pt.part", b"half")]
    report = await fetch(source(*held), tmp_path / "run")
    assert [each.path.name for each in report.checkpoints] == ["step-00000100.pt"]
    assert below(tmp_path) == {f"run/checkpoints/step-00000100.pt{suffix}" for suffix in ("", ".sha256")}
    report = await fetch(source(*held), tmp_path / "all", everything=True)
    assert [each.path.name for each in report.checkpoints] == ["step-00000020.pt", "step-00000100.pt"]
    assert report.refused == {}


async def test_the_previous_checkpoint_is_taken_when_the_newest_is_damaged(tmp_path: Path) -> None:
    old, damaged = checkpoint(20, b"old"), checkpoint(100, b"new", digest="0" * 64)
    report = await fetch(source(*old, *damaged, newest=damaged), tmp_path)
    assert [each.path.name for each in report.checkpoints] == ["step-00000020.pt"]
    assert "does not match its digest" in report.refused["checkpoints/step-00000100.pt"]
    assert (tmp_path / "checkpoints" / "step-00000020.pt").read_bytes() == b"old"


async def test_when_no_checkpoint_is_good_that_is_an_error(tmp_path: Path) -> None:
    unfinished = checkpoint(20, b"old")[:1]
    with pytest.raises(ResultsError, match=r"step-00000020.pt: its digest is missing"):
        await fetch(source(*unfinished, *checkpoint(30, b"x", digest="1" * 64)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


async def test_a_scripts_own_files_come_home_by_host(tmp_path: Path) -> None:
    report = await fetch(source(file("model/weights.bin", b"w"), special("latest", tarfile.SYMTYPE, "/")), tmp_path)
    assert below(tmp_path) == {"output/gpu-box/model/weights.bin"}
    assert list(report.refused) == ["latest"]
    assert [each.size for each in report.others] == [1]


async def test_an_empty_folder_leaves_no_trace(tmp_path: Path) -> None:
    assert await fetch(source(), tmp_path / "run") == FetchReport("gpu-box")
    assert not (tmp_path / "run").exists()


async def test_a_hostile_archive_leaves_what_was_there_and_nothing_of_its_own(tmp_path: Path) -> None:
    await fetch(source(*checkpoint(20, b"good")), tmp_path / "run")
    before = below(tmp_path)
    with pytest.raises(HostileArchive):
        await fetch(source(*checkpoint(30, b"bad"), file("../../own", b"x")), tmp_path / "run")
    assert below(tmp_path) == before


async def test_a_connection_lost_halfway_leaves_no_half_file(tmp_path: Path) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield packed(checkpoint(20, b"x" * 5000))[:3000]
        raise ConnectionDropped("gone", host="gpu-box")

    async def archives(_whole: bool) -> AsyncGenerator[Archive, None]:
        yield Archive(broken())

    with pytest.raises(ConnectionDropped):
        await fetch(archives, tmp_path)
    assert list(tmp_path.iterdir()) == []


class Host:
    """One host's part of a run; notes what is asked of it."""

    def __init__(self, outcome: FetchReport | Exception, state: State = State.RUNNING) -> None:
        self.host = "gpu-box"
        self.state = state
        self.outcome = outcome
        self.asked: list[str] = []

    async def inspect(self, run_id: str) -> HostRunState:
        return HostRunState(self.host, run_id, self.state, 0 if self.state is State.EXITED else None)

    async def end(self, run_id: str, *, grace: float = 10.0) -> None:
        self.asked.append("end")
        self.state = State.EXITED

    async def fetch(
        self, run_id: str, folder: Path, report: Callable[[LaunchProgress], None], *, everything: bool = False
    ) -> FetchReport:
        self.asked.append("fetch")
        await asyncio.sleep(0)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def stop(self, run_id: str, *, grace: float = 10.0) -> None:
        self.asked.append("stop")
        self.state = State.MISSING


async def end_of(host: Host, folder: Path, *, discard: bool = False) -> tuple[HomeReport, Reports]:
    reports = Reports()
    home = await bring_home(RUN, {"gpu-box": host}, folder, reports, discard=discard)  # type: ignore[dict-item]
    return home, reports


async def test_a_run_is_removed_only_after_its_results_are_home(tmp_path: Path) -> None:
    host = Host(FetchReport("gpu-box", (Fetched(tmp_path / "step-00000020.pt", 3, "0"),)))
    _, reports = await end_of(host, tmp_path)
    assert host.asked == ["end", "fetch", "stop"]
    assert reports.phases("gpu-box") == ["ending", "fetching", "stopped"]


@pytest.mark.parametrize("error", [ResultsError("no good one"), ConnectionDropped("gone"), OSError(28, "disk full")])
async def test_a_run_whose_results_do_not_come_home_is_kept(tmp_path: Path, error: Exception) -> None:
    host = Host(error)
    home, reports = await end_of(host, tmp_path)
    assert host.asked == ["end", "fetch"]
    assert reports.phases("gpu-box") == ["ending", "kept"]
    assert list(home.kept) == ["gpu-box"]


async def test_two_who_end_the_same_run_do_not_trip_over_each_other(tmp_path: Path) -> None:
    class Removed(Host):
        async def fetch(
            self, run_id: str, folder: Path, report: Callable[[LaunchProgress], None], *, everything: bool = False
        ) -> FetchReport:
            self.state = State.MISSING
            return await super().fetch(run_id, folder, report, everything=everything)

    host = Removed(ConnectionDropped("gone"))
    home, reports = await end_of(host, tmp_path)
    assert (home.kept, home.unreachable) == ({}, {})
    assert reports.phases("gpu-box") == ["ending", "stopped"]


@pytest.mark.parametrize("is_removed", [True, False])
async def test_only_a_log_that_somebody_else_removed_need_not_be_read(tmp_path: Path, is_removed: bool) -> None:
    host = Host(FetchReport("gpu-box", ()))

    async def ended(name: str, runtime: HostRuntime) -> None:
        host.state = State.MISSING if is_removed else State.EXITED
        raise CommandFailed("the log cannot be read", host=name)

    home = await bring_home(RUN, {"gpu-box": host}, tmp_path, Reports(), ended=ended)  # type: ignore[dict-item]
    assert list(home.unreachable) == ([] if is_removed else ["gpu-box"])


@pytest.mark.parametrize("asked_for", ["inspect", "end", "stop"])
async def test_a_frozen_host_is_named_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_for: str
) -> None:
    monkeypatch.setattr("remote.results.STATE_SECONDS", 0.05)
    monkeypatch.setattr("remote.results.ANSWER_SECONDS", 0.05)

    class Frozen(Host):
        pass

    async def hang(*_arguments: object, **_options: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Frozen, asked_for, hang)
    frozen, other = Frozen(FetchReport("frozen")), Host(FetchReport("gpu-box"))
    hosts = {"frozen": frozen, "gpu-box": other}
    async with asyncio.timeout(60):
        home = await bring_home(RUN, hosts, tmp_path, Reports(), grace=0.05)  # type: ignore[arg-type]
    assert other.asked == ["end", "fetch", "stop"]
    assert list(home.unreachable) == ["frozen"]
    assert " within 0 s" in home.unreachable["frozen"]


async def test_discard_removes_without_fetching(tmp_path: Path) -> None:
    host = Host(ResultsError("never asked"))
    home, _ = await end_of(host, tmp_path, discard=True)
    assert host.asked == ["end", "stop"]
    assert home.states["gpu-box"].state is State.EXITED


async def test_who_only_watches_ends_nothing(tmp_path: Path) -> None:
    host = Host(ResultsError("never asked"))
    home = await bring_home(RUN, {"gpu-box": host}, tmp_path, Reports(), may_end=False)  # type: ignore[dict-item]
    assert host.asked == []
    assert home.kept == {"gpu-box": "it still runs there"}


@pytest.mark.parametrize("state", [State.MISSING, State.CREATED])
async def test_what_never_ran_is_not_asked_for_results(tmp_path: Path, state: State) -> None:
    host = Host(ResultsError("never asked"), state)
    await end_of(host, tmp_path)
    assert host.asked == ["stop"]


def test_names_of_checkpoints() -> None:
    assert step_of("step-00000120.pt") == 120
    assert step_of("step-1234567890.pt") == 1234567890
    for name in ("step-120.pt", "step-00000120.pt.part", "xstep-00000120.pt", "step-00000120.pt\n", "step-٠٠٠٠٠٠٠٠.pt"):
        assert step_of(name) is None
    assert newest_complete(["step-99999999.pt", "step-99999999.pt.sha256", "step-100000000.pt"]) == "step-99999999.pt"
    assert newest_complete(["step-00000001.pt"]) == ""


def stored(experiments: Path, run_id: str, *members: Member) -> Path:
    folder = RunDir.create(experiments, "home", run_id).path
    for member, content in members:
        path = folder / member.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


INVENTORY = """
[cluster]
name = "home"
[training]
workload = "simple_cnn"
{training}
[[hosts]]
name = "box"
address = "local"
runtime = "process"
python = "python3"
"""


def test_the_newest_run_with_a_good_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    inventory = parse_inventory(INVENTORY.format(training=""), "cluster.toml")
    good, _ = "20260101-000000-0001", stored(tmp_path, "20260101-000000-0001", *checkpoint(20, b"good"))
    stored(tmp_path, "20260101-000000-0002", *checkpoint(30, b"bad", digest="2" * 64))
    stored(tmp_path, "20260101-000000-0003")
    resume = choose_resume(inventory, tmp_path, "")
    assert resume.run_id == good
    assert resume.checkpoint is not None
    assert (resume.checkpoint.step, resume.checkpoint.size) == (20, 4)
    assert "goes on from step 20" in resume.note
    assert "its content does not match its digest" in resume.note
    with pytest.raises(Exception, match="there is no good checkpoint of run 20260101-000000-0003"):
        choose_resume(inventory, tmp_path, "20260101-000000-0003")
    assert resuming(inventory).training.resume


def test_a_lasting_folder_on_the_hosts_is_gone_on_from_there(tmp_path: Path) -> None:
    inventory = parse_inventory(INVENTORY.format(training='checkpoint_dir = "/srv/keep"'), "cluster.toml")
    assert choose_resume(inventory, tmp_path, "").checkpoint is None
    with pytest.raises(Exception, match="stay on the hosts in /srv/keep"):
        choose_resume(inventory, tmp_path, "20260101-000000-0003")


def test_how_a_run_ended_is_kept_when_it_is_asked_again(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, "home", RUN)
    exited = HostRunState("a", RUN, State.EXITED, 0)
    write_end(run_dir, HomeReport({"a": exited, "b": exited}, {}, {"b": "disk full"}))
    assert run_dir.read_ended() == Ended((exited, exited), {"b": "disk full"})
    run_dir = RunDir(run_dir.path)
    gone = HostRunState("a", RUN, State.MISSING)
    write_end(run_dir, HomeReport({"a": gone, "b": HostRunState("b", RUN, State.EXITED, 0)}))
    ended = run_dir.read_ended()
    assert ended is not None
    assert ended.states[0] == exited
    assert ended.kept == {}


def test_a_damaged_checkpoint_at_home_is_passed_over(tmp_path: Path) -> None:
    stored(tmp_path, RUN, *checkpoint(20, b"good"), *checkpoint(30, b"x", digest="0" * 64), *checkpoint(40, b"y")[:1])
    found, refused = newest_good(tmp_path / "home" / RUN / "checkpoints")
    assert found is not None
    assert found.step == 20
    assert [each.rpartition(": ")[2] for each in refused] == [
        "its digest is missing",
        "its content does not match its digest",
    ]

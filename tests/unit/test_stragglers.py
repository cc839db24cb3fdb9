"""Hosts that are gone hold up nobody; hosts that are only slow are waited for while nobody is faster."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

import pytest

from hetero_tui.homecoming import Homecoming, grace_left
from hetero_tui.reach import runs_found
from remote.errors import RemoteError
from remote.hosts import Hosts
from remote.inventory import parse_inventory
from remote.local import LocalRunner
from remote.process_runtime import ProcessRuntime
from remote.runtime import HostRunState, HostRuntime, State
from remote.stragglers import gather_soon

TWO_HOSTS = """
[cluster]
name = "lab"
master = "quick"
[limits]
no_contact_seconds = 1.0
[training]
workload = "simple_cnn"
[[hosts]]
name = "quick"
address = "192.0.2.1"
runtime = "process"
[[hosts]]
name = "frozen"
address = "192.0.2.2"
runtime = "process"
"""


async def _answer(event: asyncio.Event, answer: str) -> str:
    await event.wait()
    return answer


async def _refuse() -> str:
    raise RemoteError("no route to host", host="gone")


async def test_one_that_never_answers_is_given_up_soon_after_the_first_answer() -> None:
    never, now = asyncio.Event(), asyncio.Event()
    now.set()
    asked = {"silent": _answer(never, "?"), "quick": _answer(now, "here")}
    async with asyncio.timeout(60):
        answers, errors = await gather_soon(asked, patience=0.01)
    assert answers == {"quick": "here"}
    assert list(errors) == ["silent"]
    assert "no answer though others had answered" in str(errors["silent"])


async def test_a_refusal_is_no_sign_that_the_others_are_late() -> None:
    event = asyncio.Event()
    gathering = asyncio.create_task(gather_soon({"gone": _refuse(), "slow": _answer(event, "here")}, patience=0.0))
    await asyncio.sleep(0.05)
    assert not gathering.done(), "nobody has answered yet, so nobody is late"
    event.set()
    answers, errors = await gathering
    assert answers == {"slow": "here"}
    assert str(errors["gone"]) == "gone: no route to host"


async def test_silence_everywhere_has_a_limit() -> None:
    never = asyncio.Event()
    async with asyncio.timeout(60):
        answers, errors = await gather_soon({"a": _answer(never, "?")}, patience=30.0, at_most=0.01)
    assert (answers, list(errors)) == ({}, ["a"])


async def test_nobody_is_late_while_a_person_is_asked() -> None:
    event, now, asking = asyncio.Event(), asyncio.Event(), [True]
    now.set()
    asked = {"unknown": _answer(event, "trusted"), "quick": _answer(now, "here")}
    gathering = asyncio.create_task(gather_soon(asked, patience=0.01, is_held_up=lambda: asking[0]))
    await asyncio.sleep(0.5)
    assert not gathering.done()
    event.set()
    answers, errors = await gathering
    assert (set(answers), errors) == ({"unknown", "quick"}, {})


async def test_whoever_is_cancelled_cancels_what_was_asked() -> None:
    never = asyncio.Event()
    one = asyncio.create_task(_answer(never, "?"))
    gathering = asyncio.create_task(gather_soon({"a": _wait_for(one)}, patience=1.0))
    await asyncio.sleep(0)
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    assert one.cancelled()


async def _wait_for(task: asyncio.Task[str]) -> str:
    return await task


async def test_a_host_whose_engine_is_frozen_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inventory = parse_inventory(TWO_HOSTS)
    hosts = Hosts(inventory)
    never = asyncio.Event()
    asked: list[str] = []

    async def runs(name: str) -> tuple[HostRunState, ...]:
        if name == "frozen":
            await never.wait()
        return (HostRunState(name, "20260101-120000-abcd", State.RUNNING),)

    async def runtime(name: str) -> ProcessRuntime:
        asked.append(name)
        return ProcessRuntime(name, LocalRunner())

    monkeypatch.setattr(hosts, "runs", runs)
    monkeypatch.setattr(hosts, "runtime", runtime)
    noted: list[str] = []
    found = await runs_found(hosts, lambda text, level="info", host="": noted.append(host))
    assert ([run.host for run in found], noted) == (["quick"], ["frozen"])
    runtimes, unreachable = await Homecoming(inventory, tmp_path).reachable(hosts)
    assert (list(runtimes), list(unreachable), asked) == (["quick"], ["frozen"], ["quick"])


async def test_of_a_host_that_answers_it_is_told_that_its_engine_does_not() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as silent:
        path = f"{folder}/docker.sock"  # pytest's own folders are too deep for the 107 bytes of an address
        silent.bind(path)
        silent.listen()
        text = TWO_HOSTS.replace("192.0.2.2", "local").removesuffix('runtime = "process"\n')
        hosts = Hosts(parse_inventory(f'{text}docker_socket = "{path}"\n[image]\nref = "app:1"\n'))
        await hosts.gather("frozen")

        async def ask(name: str) -> HostRuntime:
            return ProcessRuntime(name, LocalRunner()) if name == "quick" else await hosts.runtime(name)

        answers, errors = await hosts.ask_all(ask)
        await hosts.close()
    assert list(answers) == ["quick"]
    assert str(errors["frozen"]) == "it answers, but its Docker Engine does not"


@pytest.mark.parametrize(("elapsed", "grace"), [(0.0, 10.0), (3.0, 7.0), (5.0, 5.0), (60.0, 5.0)])
def test_the_way_to_the_hosts_shortens_the_grace_but_leaves_half(elapsed: float, grace: float) -> None:
    assert grace_left(10.0, elapsed) == grace

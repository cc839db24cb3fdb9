"""Everything about a run: the monitor, its dialogs, the palette, and a recording."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from textual.command import CommandPalette
from textual.pilot import Pilot

from hetero_tui.app import HeteroApp
from hetero_tui.replay import ReplaySession
from hetero_tui.replay_app import ReplayApp
from hetero_tui.screens.dialogs import Ask, Choice, Confirm, ErrorDialog
from hetero_tui.screens.help import HelpScreen
from hetero_tui.screens.jump import JumpScreen
from hetero_tui.screens.monitor import TABS, MonitorScreen
from hetero_tui.screens.replay import ReplayScreen, StepQuestion
from remote.progress import HostStatus
from tests.pilot.album import Scene
from tests.pilot.fake_session import FakeHost, FakeSession
from tests.pilot.painted import until
from tests.pilot.scenes import app, busy_run, checked, checklist, in_front, monitor, tab, then, watching
from tests.pilot.test_flow import make
from tests.pilot.test_ways_on import make as resumable
from tests.unit.stored import stored_run


def _failed() -> FakeSession:
    session = busy_run()
    session.fail(0, "RuntimeError: Connection closed by peer")
    session.fail(2, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    return session


def _many_ranks() -> FakeSession:
    hosts = [FakeHost(f"node{number:03}", 50.0 + 7 * (number % 5)) for number in range(64)]
    return busy_run(fake_hosts=hosts, global_batch=4096)


def _waiting() -> FakeSession:
    """Nothing but the greeting of two ranks has come."""
    session = make()
    session.run_id = "20251009-085320-k3f9"
    for rank in range(4):
        session.store.expect(session.fake_hosts[rank].name, {rank: session.fake_hosts[rank].device})
    session.hello(0)
    session.hello(1)
    return session


def _excluded() -> FakeSession:
    session = busy_run()
    session.exclude("laptop", admit=False, by="anna")
    session.steps(20)
    return session


def _talkative() -> FakeSession:
    session = busy_run()
    for number in range(30):
        session.output(number % 4, f"epoch 0 batch {number:>3} loss {2.3 / (number + 1):.4f}")
    session.output(2, "ValueError: something broke: an error")
    session.output(1, "UserWarning: slow disk, " + "a very long line that has to be cut or wrapped " * 6)
    return session


async def _ended_badly(pilot: Pilot[Any]) -> None:
    await watching(pilot)
    session = pilot.app.session  # type: ignore[attr-defined]
    session.fail(1, "RuntimeError: Connection reset by peer")
    session.fail(3, "RuntimeError: Connection reset by peer", "Traceback (most recent call last):\n  File 'x.py'")
    session.ended.set()
    await in_front(pilot, ErrorDialog)


def _resumable() -> FakeSession:
    session = resumable()
    session.run_id = "20251009-085320-k3f9"
    for rank in range(4):
        session.hello(rank)
    session.join()
    session.steps(40)
    return session


async def _ways_on(pilot: Pilot[Any]) -> None:
    await watching(pilot)
    session = pilot.app.session  # type: ignore[attr-defined]
    session.hosts["laptop"] = HostStatus("laptop", "lost", "no answer")
    for rank in (0, 2):
        session.fail(rank, "RuntimeError: Connection reset by peer")
    await _ended_badly(pilot)
    await pilot.press("escape")
    await in_front(pilot, Choice)


async def _jump(pilot: Pilot[Any]) -> None:
    """The letters stand where the panes are at this size."""
    if isinstance(pilot.app.screen, JumpScreen):
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, JumpScreen))
    size = pilot.app.size
    await until(pilot, lambda: all(screen.size == size for screen in pilot.app.screen_stack))
    await pilot.pause(0)
    await pilot.press("ctrl+o")
    await in_front(pilot, JumpScreen)


def _replay() -> HeteroApp:
    with TemporaryDirectory() as folder:
        session = ReplaySession(stored_run(Path(folder)))
        # Read from memory: the folder is gone when it is played.
        records = list(session.run.run_dir.records())
    session.playback._open = lambda: records
    session.playback._restart()
    session.playback.paused = True
    return ReplayApp(session)


async def _replaying(pilot: Pilot[Any]) -> None:
    app = pilot.app
    assert isinstance(app, ReplayApp)
    session = app.session
    assert isinstance(session, ReplaySession)
    playback = session.playback
    await until(pilot, lambda: isinstance(app.screen, ReplayScreen) and playback.end > 0)
    playback.seek_step(20)
    await until(pilot, lambda: session.store.cluster_view().step == 21 and not playback.seeking)

    def renewed() -> bool:
        screen = app.screen
        return isinstance(screen, ReplayScreen) and screen._generation == playback.generation and screen.is_mounted

    await until(pilot, renewed)


MORE_THEMES: Final = ("ansi-dark", "high-contrast", "colour-blind")
_MARK: Final = ("slash", *"loss", "enter", "h", "m", "N")


FAILED: Final = app(_failed, start="monitor")
MANY: Final = app(_many_ranks, start="monitor")
WAITING: Final = app(_waiting, start="monitor")
TALKING: Final = app(_talkative, start="monitor")
ASCII: Final = app(busy_run, start="monitor", ascii_only=True)
SCENES: Final = (
    *(Scene(f"monitor-{name}", MonitorScreen, monitor(), tab(name)) for name in TABS),
    Scene("monitor-themes", MonitorScreen, monitor(), tab("overview"), themes=MORE_THEMES, sizes=((120, 35),)),
    Scene("monitor-ascii", MonitorScreen, ASCII, tab("overview"), sizes=((120, 35),)),
    Scene("monitor-failed", MonitorScreen, FAILED, tab("events")),
    Scene("monitor-64-ranks", MonitorScreen, MANY, tab("overview")),
    Scene("monitor-starting", MonitorScreen, WAITING, tab("overview")),
    Scene("monitor-charts-starting", MonitorScreen, WAITING, tab("charts")),
    Scene("monitor-straggler", MonitorScreen, monitor(balanced=False), tab("balance")),
    Scene("monitor-excluded", MonitorScreen, app(_excluded, start="monitor"), then(tab("overview"), "down", "down")),
    Scene("monitor-frozen-toast", MonitorScreen, FAILED, then(tab("overview"), "space"), toasts=True),
    Scene("monitor-host", MonitorScreen, monitor(), then(tab("overview"), "down", "o", "O", "d")),
    Scene("monitor-charts-cursor", MonitorScreen, monitor(), then(tab("charts"), "left", "left", "plus")),
    Scene("monitor-logs-full", MonitorScreen, TALKING, then(tab("logs"), "right_square_bracket", "z", "w")),
    Scene("monitor-logs-filter", MonitorScreen, TALKING, then(tab("logs"), "slash", *"batch")),
    Scene("monitor-logs-marked", MonitorScreen, TALKING, then(tab("logs"), *_MARK)),
    Scene("stop", Confirm, monitor(), then(watching, "x", opens=Confirm)),
    Scene("exclude", Confirm, monitor(), then(watching, "e", opens=Confirm)),
    Scene("policy", Choice, monitor(), then(watching, "b", opens=Choice)),
    Scene("policy-ascii", Choice, ASCII, then(watching, "b", opens=Choice), sizes=((80, 24),)),
    Scene("ranks-filter", Ask, monitor(), then(watching, "slash", opens=Ask)),
    Scene("run-failed", ErrorDialog, FAILED, _ended_badly),
    Scene("ways-on", Choice, app(_resumable, start="monitor"), _ways_on),
    Scene("help-checklist", HelpScreen, checklist(), then(checked, "question_mark", opens=HelpScreen)),
    Scene("help-monitor", HelpScreen, monitor(), then(watching, "question_mark", opens=HelpScreen)),
    Scene("jump", JumpScreen, monitor(), watching, resized=_jump),
    Scene("palette", CommandPalette, monitor(), then(watching, "ctrl+p", opens=CommandPalette)),
    Scene("palette-search", CommandPalette, monitor(), then(watching, "ctrl+p", *"rank 2", opens=CommandPalette)),
    Scene("replay", ReplayScreen, _replay, _replaying),
    Scene("replay-step", StepQuestion, _replay, then(_replaying, "colon", opens=StepQuestion)),
)

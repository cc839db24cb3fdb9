"""The images screen with keys: plan, bring, give up, try again, and back to a checklist that runs again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from hetero_tui.app import HeteroApp
from hetero_tui.screens.images import ImagesScreen
from hetero_tui.widgets.image_bars import ImageBars
from remote.errors import ImageError, RemoteError
from remote.images.model import HostImagePlan, ImagePlan, ImageProgress, LayerProgress
from tests.pilot.fake_session import FakeSession

PLAN = ImagePlan(
    (
        HostImagePlan("one", "app:1", "present", "the host has it"),
        HostImagePlan("two", "app:1", "send", "one has it", source="one", bytes_to_move=2_000_000),
        HostImagePlan("three", "app:1", "send", "one has [bold]it", source="one", bytes_to_move=2_000_000),
    )
)


class Images:
    """Brings what the test lets it."""

    def __init__(self) -> None:
        self.asked: list[frozenset[str] | None] = []
        self.cancelled: list[str] = []
        self.go_on = asyncio.Event()

    @property
    def lacks_only_images(self) -> bool:
        return True

    async def image_plan(self) -> ImagePlan:
        return PLAN

    async def bring_images(
        self, report: Callable[[ImageProgress], None], hosts: frozenset[str] | None = None
    ) -> Mapping[str, RemoteError]:
        self.asked.append(hosts)
        layer = LayerProgress("abcdef012345", 500_000, 2_000_000)
        report(ImageProgress("two", "sending", 500_000, 2_000_000, 250_000.0, (layer,)))
        await self.go_on.wait()
        report(ImageProgress("two", "done", 2_000_000, 2_000_000))
        if hosts:
            return {}
        report(ImageProgress("three", "failed", detail="the disk is full"))
        return {"three": ImageError("the disk is full", host="three", next_step="docker image prune")}

    def cancel_image(self, host: str) -> None:
        self.cancelled.append(host)


def _painted(bars: ImageBars) -> str:
    return "\n".join(bars.render_line(row).text for row in range(bars.size.height))


async def test_bring_cancel_retry_and_back() -> None:
    session, images = FakeSession(), Images()
    app = HeteroApp(session)
    async with app.run_test(size=(130, 40)) as pilot:
        await pilot.pause()
        screen = ImagesScreen(session, images)
        await app.push_screen(screen)
        await pilot.pause()
        bars = screen.query_one(ImageBars)
        assert "to be sent" in _painted(bars)
        assert "[bold]it" in _painted(bars), "remote text is no markup"

        await pilot.press("b")
        await pilot.pause()
        shown = _painted(bars)
        assert "25 %" in shown
        assert "250.0 kB/s over 3 s" in shown
        assert "6 s left" in shown
        assert "abcdef012345" in shown
        await pilot.press("down", "x")
        assert images.cancelled == ["two"]
        await pilot.press("escape")
        assert app.screen is screen, "not while images are on their way"

        images.go_on.set()
        await pilot.pause()
        await pilot.pause()
        assert "the disk is full" in _painted(bars)
        assert not screen.running
        await pilot.press("down", "r")
        await pilot.pause()
        assert images.asked == [None, frozenset({"three"})]
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is not screen

"""Every screen as it is drawn: three sizes, two themes, time standing still. ``--snapshot-update`` takes them anew."""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages

import pytest
from textual.screen import Screen

import hetero_tui
from hetero_tui.screens.base import LiveScreen
from tests.pilot.album import SIZES, THEMES, Album, Scene
from tests.pilot.album import album as album  # noqa: PLC0414 - the fixture
from tests.pilot.scenes_run import SCENES as OF_A_RUN
from tests.pilot.scenes_setup import SCENES as BEFORE_A_RUN

SCENES = {scene.name: scene for scene in (*BEFORE_A_RUN, *OF_A_RUN)}
NEVER_SHOWN = {LiveScreen}
"""Only derived from."""


@pytest.mark.parametrize("name", SCENES)
async def test_screen(album: Album, name: str) -> None:
    await album.take(SCENES[name])
    assert not album.wrong, "\n".join(["not as stored, see snapshot_report.html:", *album.wrong])
    assert not album.faint, "\n".join(["too little contrast:", *sorted(album.faint)])


def test_no_screen_is_without_its_pictures() -> None:
    for module in walk_packages(hetero_tui.__path__, "hetero_tui."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    missing = {kind.__name__ for kind in _screens() - NEVER_SHOWN - {scene.screen for scene in _complete()}}
    assert not missing, f"no scene in every size and both themes for {missing}"


def _complete() -> list[Scene]:
    return [each for each in SCENES.values() if set(each.sizes) >= set(SIZES) and set(each.themes) >= set(THEMES)]


def _screens() -> set[type[Screen[object]]]:
    found: set[type[Screen[object]]] = set()
    waiting: list[type[Screen[object]]] = [Screen]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found |= {kind for kind in below if kind.__module__.startswith("hetero_tui.")}
    return found

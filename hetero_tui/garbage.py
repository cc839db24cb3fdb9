"""When Python looks for garbage: not while the program starts, and rarely among what lives as long as the program."""

from __future__ import annotations

import gc
from typing import Final

NEW_OBJECTS: Final = 20_000
"""New objects after which a collection looks at them. Lines of a log come and go by the thousand without a cycle."""


def wait_until_started() -> None:
    """Collect nothing: hundreds of modules are made at once, and collecting meanwhile costs a tenth of the start."""
    gc.disable()


def started() -> None:
    """Never look again at what is there now, and from here on collect."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 10, 10)
    gc.enable()

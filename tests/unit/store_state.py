"""Everything a store shows, as one value that can be compared."""

from __future__ import annotations

import inspect
from typing import Any

from hetero_tui.store import Store
from hetero_tui.windows import Ring

INPUTS = {"expect", "feed", "feed_broken", "feed_line", "mark", "note", "note_control", "note_launch", "replaying"}
NOT_STATE = {"now", "run_clock", "version"}


def every_view(store: Store) -> dict[str, Any]:
    """Call every public view, property and ring, also those of each rank, whatever they are called."""
    state: dict[str, Any] = {}
    for name in (each for each in dir(store) if not each.startswith("_")):
        if name in INPUTS | NOT_STATE:
            continue
        value = getattr(store, name)
        if not callable(value):
            state[name] = _plain(value)
            continue
        needed = [
            each for each in inspect.signature(value).parameters.values() if each.default is inspect.Parameter.empty
        ]
        if not needed:
            state[name] = _plain(value())
        elif [each.name for each in needed] == ["rank"]:
            state[name] = {rank: _plain(value(rank)) for rank in store.ranks}
    return state


def _plain(value: Any) -> Any:
    return (value.first, value.tail(value.next)) if isinstance(value, Ring) else value

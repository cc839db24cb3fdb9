"""One mistake in ``cluster.toml``, and how it is told: where, which key, and the nearest thing that would be right."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from remote.inventory_lines import KeyPath
from remote.inventory_secrets import without_secrets

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong at one key."""

    path: KeyPath
    text: str


def path_text(path: KeyPath) -> str:
    """Return a key path as people write it: ``hosts[1].env.NCCL_DEBUG``."""
    parts: list[str] = []
    for part in path:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        else:
            short = part if len(part) <= _MAX_SHOWN else f"{part[:_MAX_SHOWN]}…"
            key = short if _BARE_KEY.fullmatch(short) else json.dumps(short)
            parts.append(f".{key}" if parts else key)
    return without_secrets("".join(parts))


def shown(value: object) -> str:
    """Return a value for a message: quoted, on one line, shortened, never a secret."""
    match value:
        case str():
            short = value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…"
            return without_secrets(json.dumps(short, ensure_ascii=not short.isprintable()))
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value.bit_length() <= 64 else "a huge number"
        case float():
            return str(value)
        case _:
            return kind_of(value)


def kind_of(value: object) -> str:
    """Return what TOML calls this kind of value."""
    match value:
        case str():
            return "text"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case Mapping():
            return "a table"
        case list() | tuple():
            return "a list"
        case _:
            return "a date or time"


def nearest(word: str, options: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """Return the option a person most likely meant, or an empty string."""
    known = {option.lower(): option for option in options}
    lowered = word.lower().replace("-", "_")
    for synonym in (synonyms or {}).get(lowered, "").split():
        if synonym in known:
            return known[synonym]
    found = difflib.get_close_matches(lowered, known, n=1, cutoff=0.6)
    return known[found[0]] if found else ""


def value_at(data: Any, path: KeyPath) -> Any:
    """Return the value at ``path``, or None when there is none."""
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data

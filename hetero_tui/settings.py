"""What a person has set for good: ``~/.config/hetero-tui/config.toml``.

::

    theme = "high-contrast"
    ascii = false

    [keys]                      # ids are in the help (?) of each pane
    "monitor.pause" = "ctrl+y"
    "log.follow" = "F"
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from remote.errors import UserError

KNOWN: Final = ("theme", "ascii", "keys")


@dataclass(frozen=True, slots=True)
class Settings:
    """The file's content; a person without a file has the defaults."""

    path: Path
    theme: str = ""
    """Empty: chosen for the terminal."""
    ascii: bool = False
    keys: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Binding id to key or keys, such as ``f5`` or ``ctrl+y,f5``."""

    def check(self, themes: Collection[str], bindings: Collection[str]) -> None:
        """Make sure that theme and binding ids exist.

        Raises:
            UserError: they do not; names all of them, each with the nearest there is.
        """
        mistakes = [_unknown("theme", self.theme, themes)] if self.theme and self.theme not in themes else []
        mistakes += [_unknown("key binding", name, bindings) for name in self.keys if name not in bindings]
        if mistakes:
            raise UserError(f"{self.path}: {'; '.join(mistakes)}", next_step="? in the app shows every binding's id")


def settings_path(environ: Mapping[str, str]) -> Path:
    """Return where the file is looked for (XDG Base Directory Specification)."""
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "hetero-tui" / "config.toml"


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the person's settings; without a file there are none.

    Raises:
        UserError: the file cannot be read, or holds something else than it should; says what and where.
    """
    path = settings_path(environ)
    try:
        return _checked(path, tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return Settings(path)
    except RecursionError:
        raise UserError(f"{path} is nested too deep", next_step="mend it, or move it away") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", next_step="mend it, or move it away") from None


def _checked(path: Path, content: Mapping[str, Any]) -> Settings:
    mistakes = [_unknown("key", name, KNOWN) for name in content if name not in KNOWN]
    theme, ascii_only, keys = content.get("theme", ""), content.get("ascii", False), content.get("keys", {})
    if not isinstance(theme, str):
        mistakes.append(f"theme must be a name in quotes, not {theme!r}")
    if not isinstance(ascii_only, bool):
        mistakes.append(f"ascii must be true or false, not {ascii_only!r}")
    flat: dict[str, str] = {}
    if isinstance(keys, dict):
        for name, key in _flat("", keys):
            if isinstance(key, str) and key:
                flat[name] = key
            else:
                mistakes.append(f"keys.{name} must be a key in quotes, such as 'ctrl+y', not {key!r}")
    else:
        mistakes.append("keys must be a table: [keys]")
    if mistakes:
        raise UserError(f"{path}: {'; '.join(mistakes)}", next_step="mend the file, or move it away")
    return Settings(path, theme, ascii_only, MappingProxyType(flat))


def _flat(prefix: str, table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return (id, key) pairs; ``monitor.pause`` without quotes is a table in a table."""
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        found += _flat(f"{prefix}{name}.", value) if isinstance(value, dict) else [(prefix + name, value)]
    return found


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"there is no {what} {name[:60]!r}" + (f"; did you mean {near[0]!r}?" if near else "")

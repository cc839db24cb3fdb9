"""Text to inventory: every mistake in the file is found and told at once, each with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import tomli
from pydantic import ValidationError

from remote.errors import InventoryError
from remote.inventory_explain import explain
from remote.inventory_lines import KeyPath, index_lines, line_of
from remote.inventory_mistakes import Mistake, path_text, shown
from remote.inventory_model import Inventory
from remote.inventory_rules import broken_rules
from remote.inventory_secrets import WHERE_SECRETS_BELONG, secret_keys, secret_lines, without_secrets

_MAX_DEPTH: Final = 32
_MAX_BYTES: Final = 1 << 20
_START_HERE: Final = "`hetero-tui init` writes one, configs/ has examples, `hetero-tui demo` needs none"


def load_inventory(path: Path) -> Inventory:
    """Read a ``cluster.toml``.

    Raises:
        InventoryError: the file cannot be read, is not UTF-8 or TOML, or has mistakes: all of them, with lines.
    """
    file = str(path)
    try:
        with path.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise InventoryError(f"{file}: no such file", next_step=_START_HERE) from None
    except IsADirectoryError:
        raise InventoryError(
            f"{file}: this is a folder", next_step=f"name the file in it: {path / 'cluster.toml'}"
        ) from None
    except PermissionError:
        raise InventoryError(f"{file}: you may not read this file", next_step="chmod u+r it, or use a copy") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise InventoryError(f"{shown(file)}: cannot be read: {reason}") from None
    if len(content) > _MAX_BYTES:
        raise InventoryError(
            f"{file}: larger than {_MAX_BYTES >> 20} MiB; this is no cluster.toml", next_step=_START_HERE
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InventoryError(f"{file}:{line}: not UTF-8", next_step="save the file as UTF-8 in your editor") from None
    return parse_inventory(text, file)


def parse_inventory(text: str, file: str = "cluster.toml") -> Inventory:
    """Read an inventory from text; ``file`` is what messages call it.

    Relative ``identity_file``, ``context`` and ``workdir`` are taken from the folder of ``file``.

    Raises:
        InventoryError: not TOML, or mistakes: all of them, with lines.
    """
    data = _parsed(text, file)
    mistakes = [Mistake(path, WHERE_SECRETS_BELONG) for path in secret_keys(data)]
    inventory, shape_mistakes = _validated(data)
    mistakes += shape_mistakes
    mistakes += broken_rules(data)
    lines = index_lines(text)
    if inventory is None or mistakes or secret_lines(text):
        raise _error(mistakes, text, file, lines)
    return _with_key_paths(inventory, Path(file).parent)


def _parsed(text: str, file: str) -> dict[str, Any]:
    if not text.strip():
        raise InventoryError(f"{file}:1: the file is empty", next_step=_START_HERE)
    try:
        text.encode()
        data = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        message = without_secrets(_printable(error.msg))
        raise InventoryError(
            f"{file}:{error.lineno}: not valid TOML: {message} (column {error.colno})",
            next_step=_toml_hint(text, error),
        ) from None
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise InventoryError(f"{file}:{line}: not UTF-8", next_step="save the file as UTF-8 in your editor") from None
    except RecursionError:
        raise InventoryError(f"{file}: nested too deeply; this is no cluster.toml", next_step=_START_HERE) from None
    except ValueError:
        raise InventoryError(f"{file}: a number has too many digits") from None
    deep = _too_deep(data)
    if deep:
        line = line_of(index_lines(text), deep)
        raise InventoryError(f"{file}:{line}: nested too deeply; this is no cluster.toml", next_step=_START_HERE)
    return data


def _toml_hint(text: str, error: tomli.TOMLDecodeError) -> str:
    """Return the way out of the slips people make most."""
    if not error.msg.startswith("Invalid value"):
        return ""
    rest = text[error.pos :]
    if re.match(r"(?i)(?:true|false)\b", rest):
        return "write true or false in small letters"
    return "text must stand in quotes" if re.match(r"[A-Za-z~/.]|\d+\.\d+\.", rest) else ""


def _too_deep(data: dict[str, Any]) -> KeyPath:
    """Return the path to something nested deeper than any inventory, or (). Walks without recursion."""
    waiting: list[tuple[KeyPath, Any]] = [((), data)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > _MAX_DEPTH:
            return path
        if isinstance(value, dict):
            waiting += (((*path, key), each) for key, each in value.items())
        elif isinstance(value, list):
            waiting += (((*path, position), each) for position, each in enumerate(value))
    return ()


def _validated(data: dict[str, Any]) -> tuple[Inventory | None, list[Mistake]]:
    # JSON mode is the one in which strict means "no conversions" and lists are still tuples.
    cleaned, mistakes = _storable(data)
    told = {mistake.path for mistake in mistakes}
    try:
        return Inventory.model_validate_json(json.dumps(cleaned), strict=True), mistakes
    except ValidationError as error:
        return None, mistakes + [each for each in explain(error, data) if each.path not in told]


def _storable(data: dict[str, Any]) -> tuple[dict[str, Any], list[Mistake]]:
    """Return the data as JSON can carry it, and what is wrong with values before their meaning is looked at."""
    mistakes: list[Mistake] = []

    def clean(value: Any, path: KeyPath) -> Any:
        match value:
            case dict():
                return {key: clean(each, (*path, key)) for key, each in value.items()}
            case list():
                return [clean(each, (*path, position)) for position, each in enumerate(value)]
            case bool() | float():
                return value
            case int() if value.bit_length() > 63:
                mistakes.append(Mistake(path, "the number is out of range"))
                return None
            case int():
                return value
            case str():
                if _has_control_characters(value, path):
                    mistakes.append(Mistake(path, "holds control characters"))
                return value
            case _:
                return {}

    return {key: clean(each, (key,)) for key, each in data.items()}, mistakes


def _has_control_characters(value: str, path: KeyPath) -> bool:
    """Whether a value could break a line or a terminal. Variables and arguments may hold tabs and line ends."""
    allowed = "\t\n" if "env" in path or "args" in path else ""
    return any((ord(each) < 32 or 127 <= ord(each) < 160) and each not in allowed for each in value)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def _error(mistakes: list[Mistake], text: str, file: str, lines: dict[KeyPath, int]) -> InventoryError:
    secret_paths = {mistake.path for mistake in mistakes if mistake.text == WHERE_SECRETS_BELONG}
    told: dict[tuple[int, str], None] = {}
    for mistake in mistakes:
        is_secret = mistake.text == WHERE_SECRETS_BELONG
        prefixes = (mistake.path[:length] for length in range(1, len(mistake.path) + 1))
        if not is_secret and any(prefix in secret_paths for prefix in prefixes):
            continue
        told[line_of(lines, mistake.path), f"{path_text(mistake.path) or 'file'}: {mistake.text}"] = None
    secret_at = {line_of(lines, path) for path in secret_paths}
    for line in secret_lines(text):
        if line not in secret_at:
            told[line, f"this line {WHERE_SECRETS_BELONG}"] = None
    return InventoryError("\n".join(f"{file}:{line}: {message}" for line, message in sorted(told)))


def _with_key_paths(inventory: Inventory, folder: Path) -> Inventory:
    hosts = tuple(
        host.model_copy(update={"identity_file": str(folder / host.identity_file)}) if host.identity_file else host
        for host in inventory.hosts
    )
    image, training = inventory.image, inventory.training
    if image.context:
        image = image.model_copy(update={"context": str(folder / Path(image.context).expanduser())})
    if training.workdir:
        training = training.model_copy(update={"workdir": str(folder / Path(training.workdir).expanduser())})
    return inventory.model_copy(update={"hosts": hosts, "image": image, "training": training})

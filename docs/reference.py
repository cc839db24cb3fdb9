"""Writes the pages that the code knows best: ``python -m docs.reference`` (``make docs``); a test compares them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from hetero_tui import json_documents
from hetero_tui.cli import app
from remote.checks import docs as checks
from remote.checks.catalogue import CATALOGUE
from remote.decode_errors import ENTRIES
from remote.inventory_schema import json_schema

FOLDER: Final = Path(__file__).parent
_GENERATED: Final = "<!-- Written by `make docs`; a test compares it with the code. -->\n"


def commands_page() -> str:
    """Return every command with its options, as the command line itself tells them."""
    with patch.object(sys, "argv", ["hetero-tui"]):  # its usage lines name the running program
        text = app.generate_docs(output_format="markdown")
    body = re.sub(r"## Table of Contents\n.*?(?=^\*\*)", "", text, count=1, flags=re.DOTALL | re.MULTILINE)
    return body.replace("# hetero-tui\n", f"# Commands\n\n{_GENERATED}", 1).rstrip() + "\n"


def configuration_page() -> str:
    """Return every key of ``cluster.toml``, from the model that reads it."""
    schema = json.loads(json_schema())
    lines = [
        "# cluster.toml",
        "",
        _GENERATED,
        "One file describes the machines and the training. Mistakes are reported all at once, with the line and the",
        "nearest valid name. `hetero-tui schema` prints a JSON schema for editors; the files in `configs/` name it in",
        "their first line, which the TOML extensions of VS Code, Helix and Neovim read.",
        "",
    ]
    for name, entry in schema["properties"].items():
        many = entry.get("type") == "array"
        definition = schema["$defs"][_reference(entry)]
        title = f"[[{name}]]" if many else f"[{name}]"
        lines += [f"## `{title}`", "", str(definition.get("description", "")).split("\n\n")[0].replace("\n", " "), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        required = set(definition.get("required", ()))
        lines += [_key_row(key, value, key in required) for key, value in definition["properties"].items()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _reference(entry: Mapping[str, Any]) -> str:
    found = re.search(r"#/\$defs/(\w+)", repr(entry))
    if found is None:
        raise ValueError(f"the model has a key outside a table: {entry}")
    return found[1]


def _key_row(key: str, value: Mapping[str, Any], required: bool) -> str:
    default = "required" if required else f"`{_toml(value['default'])}`" if value.get("default") is not None else "–"
    meaning = str(value.get("description", "")).replace("``", "`").replace("\n", " ").replace("|", "\\|")
    return f"| `{key}` | {_type(value)} | {default} | {meaning} |"


def _type(value: Mapping[str, Any]) -> str:
    if "enum" in value:
        return " \\| ".join(f'`"{choice}"`' for choice in value["enum"])
    if "anyOf" in value:
        kinds = dict.fromkeys(_type(each) for each in value["anyOf"] if each.get("type") != "null")
        return " or ".join(kinds)
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if "$ref" in value:
        return "table"
    names = {"object": "table", "number": "number", "integer": "integer", "string": "string", "boolean": "boolean"}
    return names.get(str(value.get("type")), "value")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def troubleshooting_page() -> str:
    """Return what the error decoder and the checklist know, one entry each."""
    lines = [
        "# Troubleshooting",
        "",
        _GENERATED,
        "What the monitor says of an error, with its cause and the next step. The screen shows the same text; when one",
        "rank dies the others complain too, so an entry marked *consequence* means: look at another rank first.",
        "",
        "Something hangs or fails before training? `hetero-tui check cluster.toml` finds it: [the checks](checks.md).",
        "",
        "## Errors of ranks and engines",
        "",
    ]
    for entry in ENTRIES:
        title = f"### {entry.name}" + (" (consequence)" if entry.is_consequence else "")
        lines += [title, "", f"**Cause:** {_text(entry.cause)}.", "", f"**Next:** {_text(entry.next_step)}.", ""]
    lines += ["## What the checklist finds", "", "| check | asks | remedy |", "|---|---|---|"]
    lines += [
        f"| [{each.title}](checks.md#{each.id}) | {_cell(each.question)} | {_cell(each.remedy)} |" for each in CATALOGUE
    ]
    return "\n".join(lines).rstrip() + "\n"


def _text(template: str) -> str:
    return re.sub(r"\{(\w+)\}", r"*\1*", template).rstrip(".").replace("<", "&lt;")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


PAGES: Final = {
    "commands.md": commands_page,
    "configuration.md": configuration_page,
    "troubleshooting.md": troubleshooting_page,
    "checks.md": checks.render,
    "json.md": json_documents.page,
}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()

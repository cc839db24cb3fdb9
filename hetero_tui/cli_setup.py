"""Commands around the program itself: beginning from nothing, editors, shells, browsers."""

from __future__ import annotations

from typing import Final

from hetero_tui import exit_codes


def schema() -> int:
    """Print the JSON schema of cluster.toml for editors."""
    from remote.inventory import json_schema

    print(json_schema())
    return exit_codes.OK


COMMANDS: Final = (schema,)

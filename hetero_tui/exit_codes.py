"""Exit codes of every command."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
"""A check failed, a launch did not succeed, or training ended with an error."""
USAGE: Final = 2
"""The person's mistake: wrong option, wrong ``cluster.toml``, no such run."""
INTERRUPTED: Final = 130
"""Ctrl-C."""

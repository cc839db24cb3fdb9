"""Text out of the app: to a file, and to the person's pager."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from textual.app import App, SuspendNotSupported


def copy(app: App[object], text: str) -> None:
    """Send text to the terminal's clipboard (OSC 52) and keep it in a file, for terminals that do not listen."""
    app.copy_to_clipboard(text)
    lines = text.count("\n") + 1
    path = cache_folder(os.environ) / "copied.txt"
    told = f"{lines} line{'s' if lines > 1 else ''} sent to the terminal's clipboard (OSC 52)"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        app.notify(f"{told}; no copy in {path}: {error.strerror}", severity="warning", markup=False)
        return
    app.notify(f"{told}, and to {path}", markup=False)


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the program's folder for what can be made again (XDG Base Directory Specification)."""
    base = environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "hetero-tui"


def save(app: App[object], text: str, lines: int) -> None:
    """Write text to a new file in the current folder."""
    path = Path.cwd() / f"hetero-tui-log-{time.strftime('%Y%m%d-%H%M%S')}.txt"
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        app.notify(f"{path}: {error.strerror}", title="Not saved", severity="error", markup=False)
    else:
        app.notify(f"{lines} lines saved to {path}", markup=False)


def pager_command(environ: Mapping[str, str]) -> list[str]:
    """Return the person's pager, ``less`` or ``more`` where none is named, or nothing when there is none.

    Raises:
        ValueError: ``PAGER`` has a quote without its other half.
    """
    named = shlex.split(environ.get("PAGER", ""))
    if named:
        return named
    return next(([name] for name in ("less", "more") if shutil.which(name)), [])


def page(app: App[object], text: str) -> None:
    """Hand the terminal to the pager until it ends; training and what comes from it go on."""
    try:
        command = pager_command(os.environ)
    except ValueError as error:
        app.notify(f"PAGER cannot be read: {error}", severity="error", markup=False)
        return
    if not command:
        app.notify("there is neither $PAGER nor less nor more here", severity="error", markup=False)
        return
    with tempfile.NamedTemporaryFile("w", prefix="hetero-tui-", suffix=".log", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        try:
            with app.suspend():
                done = subprocess.run([*command, file.name], check=False)
        except SuspendNotSupported:
            app.notify("this terminal cannot be handed to a pager; ctrl+s saves to a file", severity="warning")
        except OSError as error:
            app.notify(f"{command[0]}: {error.strerror}; set PAGER", severity="error", markup=False)
        else:
            if done.returncode not in (0, 130):
                app.notify(f"{command[0]} ended with code {done.returncode}", severity="warning", markup=False)

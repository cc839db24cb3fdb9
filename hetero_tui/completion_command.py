"""``hetero-tui completion``: scripts for the shell, made from the commands themselves."""

from __future__ import annotations

from typing import Literal

from cyclopts.completion.detect import ShellDetectionError, detect_shell

from hetero_tui import exit_codes
from remote.errors import UserError

Shell = Literal["bash", "zsh", "fish"]


def run(shell: Shell | None, *, install: bool) -> int:
    """Print or install the script.

    Raises:
        UserError: it cannot be told which shell this is, or the file cannot be written.
    """
    from hetero_tui.cli import app

    if shell is None:
        try:
            found = detect_shell()
        except ShellDetectionError:
            found = "powershell"
        if found == "powershell":
            raise UserError("it cannot be told which shell this is", next_step="name it: hetero-tui completion bash")
        shell = found
    if not install:
        print(app.generate_completion(shell=shell))
        return exit_codes.OK
    try:
        path = app.install_completion(shell=shell)
    except OSError as error:
        raise UserError(
            f"cannot install it: {error}", next_step="print it instead and keep it where you like"
        ) from None
    print(f"{path}: works in new shells")
    return exit_codes.OK

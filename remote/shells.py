"""Which shell reads the commands of an account, and how PowerShell is handed a script whatever that shell is."""

from __future__ import annotations

import base64
from typing import Final, Literal, Protocol, runtime_checkable

from remote.runner import Completed

LoginShell = Literal["posix", "cmd", "powershell"]
WindowsShell = Literal["cmd", "powershell"]

SHELL_QUESTION: Final = "echo HTUI $PSVersionTable.PSVersion.Major %OS% $0"
"""Says which shell reads it and does nothing else: only cmd replaces %OS%, only PowerShell prints words on lines."""

NAMED_PIPE: Final = "npipe:"
"""How the address of a Docker Engine on Windows begins: ``npipe:////./pipe/docker_engine``."""

_BOOTSTRAP: Final = (
    "$ProgressPreference='SilentlyContinue';"
    "[Console]::OutputEncoding=New-Object System.Text.UTF8Encoding $false;"
    "$all=[Console]::In.ReadToEnd();"
    '$port,$master,$text=$all -split "`r?`n",3;'
    "& ([scriptblock]::Create($text)) $port $master"
)


class RunCommand(Protocol):
    """Runs one command line to its end."""

    async def __call__(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        """Run it; see ``remote.runner.Runner.run``."""
        ...


@runtime_checkable
class RunsInLoginShell(Protocol):
    """A machine whose account may have a shell other than a POSIX one."""

    async def run_in_login_shell(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        """Run a command line in whatever shell the account has."""
        ...


def which_shell(reply: str) -> LoginShell | None:
    """Tell a POSIX shell from the two of Windows by how ``SHELL_QUESTION`` came back; None for anything else.

    cmd replaces ``%OS%``. PowerShell replaces ``$PSVersionTable.PSVersion.Major`` and prints each word on a line of its
    own, since ``echo`` is ``Write-Output`` there. A POSIX shell replaces ``$PSVersionTable`` (by nothing) and ``$0``.
    """
    words = reply.split()
    if "HTUI" not in words:
        return None
    answer = words[words.index("HTUI") + 1 :]
    if "Windows_NT" in answer:
        return "cmd"
    if answer and answer[0] == ".PSVersion.Major":
        return "posix"
    return "powershell" if answer and answer[0].isdecimal() and "%OS%" in answer else None


def powershell_command() -> str:
    """Return the command line with which either shell of Windows runs a script from standard input.

    What comes on standard input is a port, a master's address and the script, each on lines of its own. The command
    is Base64 of UTF-16, so no shell finds anything in it to replace, and shorter than the 8191 characters cmd takes
    (https://learn.microsoft.com/troubleshoot/windows-client/shell-experience/command-line-string-limitation).
    Source: https://learn.microsoft.com/powershell/module/microsoft.powershell.core/about/about_powershell_exe
    """
    encoded = base64.b64encode(_BOOTSTRAP.encode("utf-16-le")).decode("ascii")
    return f"powershell -NoProfile -NonInteractive -ExecutionPolicy Bypass -EncodedCommand {encoded}"

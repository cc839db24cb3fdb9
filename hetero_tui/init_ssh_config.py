"""The machines ``~/.ssh/config`` names, as OpenSSH reads it (``man 5 ssh_config``): Include, patterns, several a line.

asyncssh reads the same file to answer what holds for one host; which hosts there are it does not tell.
"""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Final

from asyncssh.config import ConfigParseError, SSHClientConfig

MOST_INCLUDES: Final = 16
"""OpenSSH's own limit on nesting."""
CODE_HOSTS: Final = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "ssh.dev.azure.com")
"""Nobody trains there."""
_LINE: Final = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.+)")


@dataclass(frozen=True, slots=True)
class SshHost:
    """One name of ``~/.ssh/config`` and what the file says about it."""

    alias: str
    address: str
    user: str
    port: int
    jump: str

    @property
    def described(self) -> str:
        """Where the name leads, for people."""
        port = f" port {self.port}" if self.port != 22 else ""
        return f"{self.user}@{self.address}{port}" + (f" through {self.jump}" if self.jump else "")


def ssh_hosts(config: Path) -> tuple[SshHost, ...]:
    """Return every machine that the file names, in its order; patterns and code hosts are left out.

    Raises:
        ValueError: the file is not what ssh can read.
    """
    try:
        found = tuple(_resolved(alias, config) for alias in dict.fromkeys(_aliases(config, config.parent, 0)))
    except (ConfigParseError, OSError) as error:
        raise ValueError(str(error)) from None
    return tuple(host for host in found if host.address.lower().removeprefix("www.") not in CODE_HOSTS)


def _aliases(path: Path, folder: Path, depth: int) -> Iterator[str]:
    if depth > MOST_INCLUDES:
        raise ValueError(f"{path} includes itself, or Include is nested more than {MOST_INCLUDES} deep")
    if not path.is_file():
        return
    for line in path.read_text("utf-8", errors="replace").splitlines():
        found = _LINE.match(line)
        if found is None or line.lstrip().startswith("#"):
            continue
        keyword = found[1].lower()
        if keyword not in ("host", "include"):
            continue
        try:
            words = shlex.split(found[2], comments=True)
        except ValueError as error:
            raise ValueError(f"{path}: {error}: {line.strip()}") from None
        if keyword == "host":
            yield from (word for word in words if not re.search(r"[*?!]", word))
            continue
        for word in words:
            for included in _included(path, word, folder):
                yield from _aliases(included, folder, depth + 1)


def _included(path: Path, word: str, folder: Path) -> list[Path]:
    try:
        pattern = Path(word).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: Include {word}: {error}") from None
    # Two stars are no more than one, as in OpenSSH; for Path.glob they are a walk through all folders.
    return sorted(map(Path, glob(str(folder / pattern).replace("\0", "?"))))  # noqa: PTH207


def _resolved(alias: str, config: Path) -> SshHost:
    user = getpass.getuser()
    # The arguments are those of asyncssh's own call: nothing given on a command line, first pass.
    settings = SSHClientConfig.load(None, [config], False, False, False, user, (), alias, ())
    port = settings.get("Port", 22)
    jump = str(settings.get("ProxyJump", "") or "")
    return SshHost(
        alias,
        str(settings.get("Hostname", alias)),
        str(settings.get("User", user)),
        port if isinstance(port, int) else 22,
        "" if jump.lower() == "none" else jump,
    )

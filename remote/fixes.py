"""Runs a fix on its host, once a person has seen what will run: as the login user, or through ``sudo``.

A password goes to ``sudo -S`` on standard input and nowhere else: it is on no command line, in no variable that a
child inherits, in no file and in nothing that is printed. One ``sudo -v`` takes it; the commands then use the ticket,
so it can never end up on the standard input of a command. The ticket is given back at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from remote.checks.model import Fix
from remote.errors import CommandFailed
from remote.facts import Facts
from remote.runner import Runner

TIMEOUT: Final = 600.0
"""Seconds for all commands of a fix together: installing a package over a slow line takes minutes."""
MAX_OUTPUT: Final = 8000
"""Characters of each stream that are kept, from the end."""
_REFUSED: Final = 97
"""Exit status of the script when ``sudo`` did not take the password."""


class Way(StrEnum):
    """How a fix can be run."""

    COPY = "copy"
    """By hand only."""
    USER = "user"
    """As the login user."""
    SUDO = "sudo"
    """Through ``sudo`` without a password: the login user is root, or ``sudo`` asks for none."""
    PASSWORD = "password"  # noqa: S105  the name of a way, not a secret
    """Through ``sudo`` with the person's password."""
    BRING = "bring"
    """By this program, which brings the data set to the hosts that lack some of it."""


@dataclass(frozen=True, slots=True)
class FixPlan:
    """What running a fix means: shown before, and done after a yes."""

    way: Way
    host: str
    user: str
    """Login user on the host, where it is known."""
    commands: tuple[str, ...]
    reason: str = ""
    """Why it can only be copied."""
    new_login: bool = False


@dataclass(frozen=True, slots=True)
class FixOutcome:
    """What came of it."""

    host: str
    exit_status: int
    output: str
    """What the commands printed, both streams; from the end where it was too long."""
    refused: str = ""
    """What ``sudo`` said when it did not take the password; nothing was run then."""

    @property
    def succeeded(self) -> bool:
        """Whether every command ended with 0."""
        return self.exit_status == 0


def plan_fix(fix: Fix, facts: Facts | None) -> FixPlan:
    """Decide how a fix can be run on its host; ``facts`` are the host's, None when they are not known."""
    user = facts.user if facts else ""

    def by_hand(reason: str) -> FixPlan:
        return FixPlan(Way.COPY, fix.host, user, fix.commands, reason)

    if fix.brings_data:
        return FixPlan(Way.BRING, fix.host, user, fix.commands)
    if not fix.commands:
        return by_hand("it is no command: read the text and do what it says")
    if not fix.host:
        return by_hand("it is for this machine or needs you to fill something in: copy it")
    if not fix.safe:
        return by_hand("it needs your eyes (it asks, removes, or is an example to adapt): copy it and run it yourself")
    if not fix.needs_root:
        return FixPlan(Way.USER, fix.host, user, fix.commands, new_login=fix.new_login)
    if facts is None:
        return by_hand("it needs root, and how to become root there is not known")
    if not any("sudo " in command for command in fix.commands):
        return by_hand("it needs an administrator in another place than this login")
    way = Way.SUDO if facts.sudo in ("root", "nopass") else Way.PASSWORD
    return FixPlan(way, fix.host, user, fix.commands, new_login=fix.new_login)


def script(commands: Sequence[str], way: Way, *, is_root: bool = False) -> str:
    """Return the POSIX-sh text that runs the commands one after the other and stops at the first that fails.

    Args:
        commands: shell lines; with a way through ``sudo``, those that need root say ``sudo`` themselves.
        way: how; with ``Way.PASSWORD`` the first line of standard input is the password.
        is_root: the login user is root already, who may have no ``sudo``.
    """
    lines = ["LC_ALL=C; export LC_ALL"]
    match way:
        case Way.PASSWORD:
            lines += [
                "IFS= read -r password",
                "trap '\\sudo -k' EXIT",
                f"printf '%s\\n' \"$password\" | sudo -S -p '' -v || exit {_REFUSED}",
                "unset password",
            ]
        case Way.SUDO | Way.USER | Way.COPY | Way.BRING:
            pass
    if way in (Way.SUDO, Way.PASSWORD):
        # Without a terminal the ticket belongs to the shell that is sudo's parent. A function in a pipeline would run
        # in a shell of its own; an alias does not.
        lines.append('sudo() { "$@"; }' if is_root else "alias sudo='sudo -n'")
    lines += ["exec </dev/null", *(f"{{ {command}\n}} || exit" for command in commands)]
    return "\n".join(lines)


async def run_fix(runner: Runner, plan: FixPlan, *, is_root: bool = False, password: str = "") -> FixOutcome:
    """Run a fix to its end.

    Args:
        runner: the connection to the host that ``plan`` names.
        plan: what to run.
        is_root: the login user is root.
        password: for ``Way.PASSWORD``; it is written to standard input only, and kept nowhere.

    Raises:
        CommandFailed: it can only be copied, or it did not end in time.
        ConnectionDropped: the connection was lost meanwhile.
    """
    if plan.way in (Way.COPY, Way.BRING) or runner.host != plan.host:
        raise CommandFailed(f"this fix is not run from here: {plan.reason}", host=plan.host)
    text = script(plan.commands, plan.way, is_root=is_root)
    # A newline would end the password early and leave its rest as input of nobody knows what.
    if "\n" in password or "\0" in password:
        raise CommandFailed("a password has no line break", host=plan.host)
    said = f"{password}\n".encode() if plan.way is Way.PASSWORD else b""
    try:
        done = await runner.run(text, input=said, timeout=TIMEOUT)
    except TimeoutError as error:
        raise CommandFailed(
            f"the fix did not end within {TIMEOUT:.0f} s",
            host=plan.host,
            next_step="log in and see what it waits for: " + "; ".join(plan.commands),
        ) from error
    output = "\n".join(each.strip()[-MAX_OUTPUT:] for each in (done.stdout, done.stderr) if each.strip())
    if plan.way is Way.PASSWORD and done.exit_status == _REFUSED:
        return FixOutcome(plan.host, done.exit_status, output, refused=_why_refused(done.stderr))
    return FixOutcome(plan.host, done.exit_status, output)


def _why_refused(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for line in lines:
        if "not in the sudoers" in line or "may not run sudo" in line:
            return "this user may not use sudo on that host"
    if any("no password was provided" in line or "try again" in line.lower() for line in lines):
        return "sudo did not take the password"
    return lines[-1][:300] if lines else "sudo did not take the password"

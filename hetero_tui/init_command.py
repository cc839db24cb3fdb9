"""``hetero-tui init``: from ``~/.ssh/config`` to a commented ``cluster.toml``."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from hetero_tui import exit_codes, report
from hetero_tui.formats import counted
from hetero_tui.headless import ask_host_key
from hetero_tui.init_file import Candidate, cluster_text
from hetero_tui.init_ssh_config import SshHost, ssh_hosts
from hetero_tui.output import print_json, say
from hetero_tui.questions import typed_line
from hetero_tui.sanitize import clean
from remote.errors import RemoteError, UserError
from remote.hosts import Hosts
from remote.inventory import Cluster, Host, Inventory, parse_inventory
from remote.run_dir import write_atomically

LOCAL: Final = "local"


async def run(
    output: Path, *, name: str, wanted: Sequence[str], yes: bool, force: bool, no_local: bool, as_json: bool
) -> int:
    """Find machines, try them all at once, ask which to take and write the file.

    Args:
        output: the file.
        name: of the cluster.
        wanted: only these names of ``~/.ssh/config``, or anything else ssh understands; all of them when empty.
        yes: take all that answered, without asking.
        force: replace a file that is there.
        no_local: leave this machine out.
        as_json: print what was found and written for programs.

    Raises:
        UserError: there is nothing to choose from, nobody to ask, or the file is there already.
    """
    if output.exists() and not force:
        raise UserError(
            f"{output} is there already", next_step="name another with --output, or replace it with --force"
        )
    can_ask = sys.stdin.isatty() and not as_json
    if not (yes or can_ask):
        raise UserError(
            "nobody can be asked here", next_step="--yes takes every machine that answers; --host names some"
        )
    proposed = _proposed(wanted, no_local=no_local)
    if not proposed:
        raise UserError("~/.ssh/config names no machine", next_step="name some with --host, as you would with ssh")
    found = await _try(proposed)
    usable = [each for each in found if not each.problem]
    for each in found:
        say(f"{'✔' if not each.problem else '✖'} {each.name} ({each.reached}): {each.described}")
    taken = usable if yes else await _ask(usable)
    if not taken:
        raise UserError(
            "no machine was taken", next_step="mend what is marked ✖, for example `ssh NAME` until it works"
        )
    text = cluster_text(name, taken, [each for each in found if each.problem])
    parse_inventory(text, str(output))
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}", next_step="choose another --output") from None
    if as_json:
        hosts = [
            {"host": each.name, "reached": each.reached, "problem": each.problem, "taken": each in taken,
             "runtime": each.runtime, "described": each.described}
            for each in found
        ]  # fmt: skip
        print_json({"schema": report.SCHEMA, "file": str(output), "hosts": hosts})
    else:
        machines = "1 machine" if len(taken) == 1 else f"{len(taken)} machines"
        print(f"{output} names {machines}. Next: hetero-tui check {output}")
    return exit_codes.OK


def _proposed(wanted: Sequence[str], *, no_local: bool) -> list[Candidate]:
    config = Path("~/.ssh/config").expanduser()
    try:
        known = {host.alias: host for host in ssh_hosts(config)}
    except ValueError as error:
        raise UserError(
            f"~/.ssh/config cannot be read: {error}", next_step="correct it; `ssh -G NAME` judges it"
        ) from None
    chosen = {alias: known.get(alias) or SshHost(alias, alias, "", 22, "") for alias in wanted} if wanted else known
    python = sys.executable if importlib.util.find_spec("torch") else ""
    local = [] if no_local else [Candidate(LOCAL, LOCAL, "this machine", python=python)]
    names = {LOCAL} if local else set()
    remote = []
    for alias, host in chosen.items():
        name = re.sub(r"[^A-Za-z0-9._-]", "-", alias.rpartition("@")[2]).strip("-._")[:60] or "host"
        while name in names:
            name += "-2"
        names.add(name)
        remote.append(Candidate(name, alias, host.described if host.user else alias))
    return local + remote


async def _try(proposed: Sequence[Candidate]) -> list[Candidate]:
    """Log in to all at once and ask each what it is."""
    inventory = Inventory(
        cluster=Cluster(name="init"),
        hosts=tuple(Host(name=each.name, address=each.address) for each in proposed),
    )
    hosts = Hosts(inventory)
    say(f"trying {counted(len(proposed), 'machine')} …")

    async def one(each: Candidate) -> Candidate:
        try:
            await hosts.connected(each.name, ask_host_key)
            facts = await hosts.gather(each.name)
        except RemoteError as error:
            say(f"✖ {each.name}: {clean(error.message, 300)}")
            return replace(each, problem=clean(error.message, 300))
        say(f"✔ {each.name} answers")
        return replace(each, facts=facts)

    try:
        return list(await asyncio.gather(*map(one, proposed)))
    finally:
        await hosts.close()


async def _ask(usable: Sequence[Candidate]) -> list[Candidate]:
    """Let the person choose by numbers; an empty answer takes all."""
    if not usable:
        return []
    for number, each in enumerate(usable, 1):
        say(f"  {number}. {each.name}: {each.described}")
    while True:
        say("Which take part? Numbers such as 1 3, or enter for all: ")
        line = await typed_line()
        if not line:
            return []
        words = re.split(r"[\s,]+", line.strip())
        if words == [""]:
            return list(usable)
        if all(word.isdecimal() and 1 <= int(word) <= len(usable) for word in words):
            return [usable[index - 1] for index in dict.fromkeys(map(int, words))]
        say(f"give numbers from 1 to {len(usable)}")

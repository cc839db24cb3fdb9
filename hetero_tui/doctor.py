"""``hetero-tui doctor``: everything a person would paste into a bug report, as one Markdown text."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hetero_tui import exit_codes, prediction_report
from hetero_tui.output import harmless, print_json, show
from hetero_tui.redact import Redaction
from hetero_tui.report import SCHEMA
from hetero_tui.sanitize import clean
from remote.checks.model import CheckResult
from remote.errors import RemoteError
from remote.facts import Facts
from remote.inventory import Inventory, load_inventory
from remote.inventory_secrets import is_secret_name, without_secrets
from remote.run_dir import RunDir, write_atomically
from trainer.events import Failed, Notice, decode

if TYPE_CHECKING:
    from hetero_tui.cluster_session import ClusterSession

PACKAGES: Final = (
    "hetero-tui", "textual", "asyncssh", "docker", "h11", "pydantic", "cyclopts", "psutil", "torch", "torchft", "numpy",
)  # fmt: skip
VARIABLES: Final = ("TERM", "COLORTERM", "TERM_PROGRAM", "LANG", "LC_ALL", "TMUX", "SSH_CONNECTION", "NO_COLOR")
"""Of the terminal; of some only whether they are set is told."""
ENGINE_KEYS: Final = (
    "ServerVersion", "OperatingSystem", "OSType", "Architecture", "KernelVersion", "Driver", "CgroupDriver",
    "CgroupVersion", "DefaultRuntime", "NCPU", "MemTotal", "DockerRootDir", "SecurityOptions", "Containers", "Images",
)  # fmt: skip
MAX_ERRORS: Final = 20
MAX_LINES: Final = 12


async def run(
    cluster: Path | None, *, report: Path | None, redact: bool, experiments: Path, as_json: bool = False
) -> int:
    """Write the report, or print it; the exit status is 0 when it could be written, whatever it says.

    Args:
        cluster: path of cluster.toml; only this machine when None.
        report: the Markdown file to write; standard output when None.
        redact: take names and addresses out.
        experiments: folder where runs are kept.
        as_json: print the sections for programs; ``report`` is written all the same.
    """
    redaction = Redaction()
    sections = [f"{_begin()}{_about_here()}"]
    if cluster is not None:
        sections += await _about_cluster(cluster, experiments, redaction)
    know_this_machine(redaction)
    text = without_secrets("\n".join(sections))
    if redact:
        text = redaction.apply(text)  # learns the names, too, that only later sections tell
    if as_json:
        told = [without_secrets(each) for each in sections]
        print_json(_document([redaction.apply(each) for each in told] if redact else told, report, redacted=redact))
    elif report is None:
        show(text)
    if report is None:
        return exit_codes.OK
    try:
        # A person reads it with `cat`, too.
        write_atomically(report, harmless(text).encode(errors="replace"))
    except OSError as error:
        print(f"cannot write {report}: {error.strerror}", file=sys.stderr)
        return exit_codes.FAILED
    print(f"written to {report}" + ("" if redact else "; --redact takes names and addresses out"), file=sys.stderr)
    return exit_codes.OK


def _document(sections: Sequence[str], report: Path | None, *, redacted: bool) -> dict[str, object]:
    parts = [each.partition("## ")[2].partition("\n") for each in sections]
    return {
        "schema": SCHEMA,
        "redacted": redacted,
        "file": str(report or ""),
        "sections": [{"title": title, "markdown": body.strip()} for title, _, body in parts],
    }


def know_this_machine(redaction: Redaction) -> None:
    """Remember the names of this machine and its user."""
    redaction.know("user", [getpass.getuser(), Path.home().name])
    name = socket.gethostname()
    redaction.know("host", [name])
    redaction.alias(name, name.partition(".")[0])


def know_inventory(redaction: Redaction, inventory: Inventory) -> None:
    """Remember every name in the inventory."""
    redaction.know("cluster", [inventory.cluster.name])
    for host in inventory.hosts:
        redaction.know("host", [host.name])
        redaction.alias(host.name, host.address)
        redaction.alias(host.name, host.train_address)
        jump_user, _, jump = host.jump_host.rpartition("@")
        redaction.know("user", [host.user, jump_user])
        redaction.know("host", [jump.rpartition(":")[0] or jump])
    images = [inventory.image.ref, *inventory.image.variants.values(), *(host.image for host in inventory.hosts)]
    for image in images:
        registry, slash, _ = image.partition("/")
        if slash and ("." in registry or ":" in registry):
            redaction.know("domain", [registry.partition(":")[0]])


def know_facts(redaction: Redaction, facts: Mapping[str, Facts]) -> None:
    """Remember the names that hosts gave themselves."""
    for name, each in facts.items():
        redaction.know("host", [name])
        for own in (each.hostname, each.hostname.partition(".")[0]):
            redaction.alias(name, own)
        redaction.know("domain", [each.hostname.partition(".")[2]])
        redaction.know("user", [each.user, each.home.rpartition("/")[2]])
        redaction.know("id", [each.machine_id])


def _begin() -> str:
    return f"# hetero-tui doctor\n\nmade {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}\n\n"


def _about_here() -> str:
    lines = ["## This machine", "", f"- Python {platform.python_version()} ({platform.python_implementation()})"]
    lines.append(f"- {platform.platform()}, {platform.machine()}, {os.cpu_count()} CPUs")
    lines += [f"- {package} {_version(package)}" for package in PACKAGES]
    lines += [f"- {tool}: {shutil.which(tool) or 'not in the PATH'}" for tool in ("ssh", "docker", "git")]
    size = shutil.get_terminal_size()
    lines.append(f"- terminal {size.columns}×{size.lines}, a terminal: {sys.stdout.isatty()}")
    for name in VARIABLES:
        if value := os.environ.get(name):
            lines.append(f"- {name}={'(set)' if name in ('TMUX', 'SSH_CONNECTION') else clean(value, 60)}")
    return "\n".join([*lines, ""])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


async def _about_cluster(cluster: Path, experiments: Path, redaction: Redaction) -> list[str]:
    from hetero_tui import headless
    from hetero_tui.cluster_session import ClusterSession

    try:
        inventory = load_inventory(cluster)
    except RemoteError as error:
        return ["## Inventory", "", _block(str(error)), ""]
    know_inventory(redaction, inventory)
    session = ClusterSession(inventory, experiments=experiments, readonly=True)
    try:
        await session.connect(headless.ask_host_key)
        async for _ in session.run_checks():
            pass
        facts = session.preflight.facts
        know_facts(redaction, facts)
        engines = await session.preflight.engine_infos(ENGINE_KEYS)
        prediction, missing = await prediction_report.try_predict(session.preflight.predict)
        told = prediction_report.text(prediction, time.time()) if prediction else f"none: {missing}"
        return [
            _inventory(inventory),
            _hosts(session, facts, engines),
            _checks(session.results),
            f"## Prediction\n\n{_block(told)}\n",
            _last_run(experiments, inventory.cluster.name),
        ]
    finally:
        await session.close()


def _inventory(inventory: Inventory) -> str:
    values = _without_values(inventory.model_dump(mode="json", exclude_defaults=True))
    return f"## Inventory\n\n{_block(json.dumps(values, indent=1, ensure_ascii=False), 'json')}\n"


def _without_values(value: Any, name: str = "") -> Any:
    """Return the inventory without what may be secret: values of variables and arguments, and all named like one."""
    match value:
        case dict():
            hidden = name in ("env", "build_args")
            return {
                key: "(set)" if hidden or is_secret_name(key) else _without_values(each, key)
                for key, each in value.items()
            }
        case list():
            return f"({len(value)} arguments)" if name == "args" else [_without_values(each) for each in value]
        case _:
            return value


def _hosts(session: ClusterSession, facts: Mapping[str, Facts], engines: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["## Hosts", ""]
    for name, status in session.hosts.items():
        lines += [f"### {name}: {status.phase}", ""]
        if status.detail:
            lines.append(_block(clean(status.detail, 1000)))
        if name in facts:
            known = {key: value for key, value in asdict(facts[name]).items() if key != "raw" and value not in ("", ())}
            lines += ["facts", _block(json.dumps(known, indent=1, ensure_ascii=False, default=str), "json")]
        if name in engines:
            lines += ["engine", _block(json.dumps(engines[name], indent=1, ensure_ascii=False, default=str), "json")]
        lines.append("")
    return "\n".join(lines)


def _checks(results: tuple[CheckResult, ...]) -> str:
    lines = ["## Checks", "", "| check | host | verdict | reason |", "|---|---|---|---|"]
    lines += [
        f"| {each.check_id} | {each.host or 'cluster'} | {each.finding.verdict.value} | {_cell(each.finding.reason)} |"
        for each in results
    ]
    for each in results:
        if each.finding.evidence and each.finding.verdict.value in ("fail", "unknown", "warn"):
            some = "\n".join(clean(line, 300) for line in each.finding.evidence.splitlines()[:MAX_LINES])
            lines += ["", f"{each.check_id} on {each.host or 'cluster'}:", _block(some)]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return clean(text, 300).replace("|", "\\|")


def _last_run(experiments: Path, cluster: str) -> str:
    newest = RunDir.latest(experiments, cluster)
    if newest is None:
        return "## Last run\n\nnone is stored here\n"
    errors: list[str] = []
    count = 0
    for line in newest.lines():
        count += 1
        try:
            event = decode(line.text)
        except ValueError:
            continue  # plain output that looks like an event
        match event:
            case Failed(error=error, traceback=trace):
                errors.append(f"{line.host} rank {event.rank}: {error}\n{trace}")
            case Notice(level="error" | "warning", text=text):
                errors.append(f"{line.host} rank {event.rank}: {text}")
    told = "\n".join(clean(each, 300) for text in errors[-MAX_ERRORS:] for each in text.splitlines()[-MAX_LINES:])
    return "\n".join(
        [f"## Last run: {newest.run_id}", "", f"{count} lines stored; errors and warnings, the newest last:",
         _block(told or "none"), ""]
    )  # fmt: skip


def _block(text: str, language: str = "") -> str:
    fence = "~~~~" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"

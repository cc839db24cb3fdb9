"""The data set: on every host, with the same files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from remote.checks.context import CheckContext
from remote.checks.model import Check, Finding, Fix, Severity, fail, ok, skip, unknown, whole_cluster
from remote.checks.shared import destination
from remote.dataset import DatasetError, Summary
from remote.dataset_sync import DatasetState, dataset_of
from remote.inventory import Inventory


def data_finding(path: str, folders: Mapping[str, Summary], inventory: Inventory, how: str = "") -> Finding:
    """Judge whether the data folder is there, holds files, and is the same on all hosts.

    Args:
        path: the folder, as the inventory names it.
        folders: what each host said of it.
        inventory: says which host is the master.
        how: what differs, where that is known.
    """
    master = inventory.master.name
    evidence = "\n".join([*(f"{host}: {path}: {_said(folder)}" for host, folder in folders.items()), how]).rstrip()
    for problem, words in (("missing", "is not there"), ("denied", "may not be read")):
        hosts = [host for host, folder in folders.items() if folder.problem == problem]
        if hosts:
            return fail(f"{path} {words} on {', '.join(hosts)}", evidence, _sync(path, hosts, inventory))
    empty = [host for host, folder in folders.items() if folder.count == 0]
    if empty:
        return fail(f"{path} is empty on {', '.join(empty)}", evidence, _sync(path, empty, inventory))
    reference = folders.get(master) or next(iter(folders.values()))
    differing = [host for host, folder in folders.items() if folder.digest != reference.digest]
    if differing:
        return fail(
            f"{path} differs on {', '.join(differing)} from {master}", evidence, _sync(path, differing, inventory)
        )
    unfinished = [host for host, folder in folders.items() if folder.unfinished]
    if unfinished:
        return fail(
            f"{path} holds the rest of a transfer that did not end on {', '.join(unfinished)}",
            evidence,
            _sync(path, unfinished, inventory),
        )
    return ok(
        f"{reference.count} files, {reference.size / 1e6:.1f} MB, the same names and sizes on all of them", evidence
    )


def _said(folder: Summary) -> str:
    rest = ", with the rest of a transfer that did not end" if folder.unfinished else ""
    return folder.problem or f"{folder.count} files, {folder.size} bytes, {folder.digest}{rest}"


def _sync(path: str, hosts: list[str], inventory: Inventory) -> Fix:
    master = inventory.master.name
    if master in hosts:
        return Fix(f"put the data set into {path} on {master}: it is the measure for the other hosts", host=master)
    # Neither a quoted ~ nor, for rsync 3.2.4 and later, one on the other side is the home folder.
    below = f"{path.removeprefix('~/').rstrip('/')}/"
    target = shlex.quote(below)
    source = f"~/{target}" if path.startswith("~/") else target
    others = [inventory.host(name) for name in hosts]
    ports = {host.name: f"-e 'ssh -p {host.port}' " if host.port else "" for host in others}
    return Fix(
        f"bring what they lack from {master}: here with F, without a screen by `hetero-tui data --bring`; it goes "
        f"through this machine. Or run these commands on {master}, where it can log in to the others. What only they "
        "have, or have otherwise, stays, so see to that by hand",
        tuple(f"rsync -a {ports[host.name]}{source} {shlex.quote(destination(host))}:{target}" for host in others),
        host=master,
        brings_data=True,
    )


def _differences(state: DatasetState) -> str:
    lines = [f"{host} {difference}" for host, difference in state.differences.items()]
    return "\n".join([*lines, *(f"{host}: {why}" for host, why in state.problems.items())])


async def _data(context: CheckContext, hosts: tuple[str, ...]) -> Finding:
    path = context.inventory.training.data_dir
    if not path:
        return skip("no data_dir under [training]")
    dataset = await dataset_of(context.inventory, hosts, context.facts, context.runner)
    folders: dict[str, Summary] = {}
    for name, summary in (await dataset.summaries()).items():
        if isinstance(summary, str):
            return unknown(f"{name} gave no answer about {path}", summary)
        folders[name] = summary
    how = ""
    if dataset.master in folders and len({(each.digest, each.unfinished) for each in folders.values()}) > 1:
        try:
            how = _differences(await dataset.look())
        except DatasetError as error:
            how = str(error)
    return data_finding(path, folders, context.inventory, how)


DATA = Check(
    id="data",
    title="Data set",
    codes=("PF-73",),
    severity=Severity.BLOCKS,
    scope="cluster",
    question="Is `data_dir` on every host, with the same files? Names and sizes are compared; `hetero-tui data "
    "--contents` compares what is in them, too.",
    remedy="`hetero-tui data --bring` brings what hosts lack from the master.",
    probe=whole_cluster(_data),
    needs=("system",),
    deadline=120.0,
)

"""What must hold between the keys of ``cluster.toml``. Every rule yields all the mistakes it finds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from remote.inventory_lines import KeyPath
from remote.inventory_mistakes import Mistake, nearest, shown
from remote.inventory_model import (
    IMAGE_DATASETS,
    IMAGE_WORKLOADS,
    SYNTHETIC_DATASETS,
    Cluster,
    Host,
    Image,
    Model,
    Network,
    Training,
)
from remote.plan_contract import is_contract_variable

_ENVIRONMENT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INTERFACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,31}")
_JUMP: Final = re.compile(
    r"(?:[^@\s:,\[\]-][^@\s:,\[\]]*@)?(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:]+\])(?::(\d{1,5}))?"
)
_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_PORT_RANGE: Final = re.compile(r"(\d{1,5})-(\d{1,5})")
_ADDRESS: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9._:%-]*")
_ABSOLUTE: Final = re.compile(r"/|~/|[A-Za-z]:[\\/]")
_DECISIVE: Final = frozenset(
    {"address", "backend", "dataset", "devices", "image", "ref", "runtime", "script", "variants", "workload"}
)
"""Keys other keys are judged by: a wrong one must not lead to more mistakes than the person made."""
_M = TypeVar("_M", bound=Model)


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the file has the right shape; a rule looks only at parts that have."""

    cluster: Cluster | None
    image: Image | None
    training: Training | None
    network: Network | None
    hosts: tuple[Host | None, ...]
    host_names: tuple[str, ...]
    """Name of every host, also of those with other mistakes; empty when it has none."""

    @property
    def good_hosts(self) -> Iterator[tuple[int, Host]]:
        """Position and value of every host of the right shape."""
        return ((position, host) for position, host in enumerate(self.hosts) if host is not None)

    @property
    def complete(self) -> bool:
        """Whether every host has the right shape."""
        return None not in self.hosts


def broken_rules(data: Mapping[str, Any]) -> list[Mistake]:
    """Return every mistake between keys, in data whose single keys may have mistakes of their own."""
    parts = _parts(data)
    return [mistake for rule in _RULES for mistake in rule(parts)]


def _parts(data: Mapping[str, Any]) -> Parts:
    tables = data.get("hosts")
    hosts = tables if isinstance(tables, list) else []
    names = (host.get("name") if isinstance(host, dict) else None for host in hosts)
    return Parts(
        cluster=_part(Cluster, data.get("cluster")),
        image=_part(Image, data.get("image", {})),
        training=_part(Training, data.get("training", {})),
        network=_part(Network, data.get("network", {})),
        hosts=tuple(_part(Host, host) for host in hosts),
        host_names=tuple(name if isinstance(name, str) else "" for name in names),
    )


def _part(model: type[_M], table: object) -> _M | None:
    """Return the table as its model without the keys that are wrong by themselves: those are told elsewhere.

    Returns None when what is left cannot be judged, because a key that other rules hang on is among the wrong ones.
    """
    if not isinstance(table, dict):
        return None
    known = {key: value for key, value in table.items() if key in model.model_fields}
    try:
        return model.model_validate(known)
    except ValidationError as error:
        wrong = {str(each["loc"][0]) for each in error.errors(include_url=False, include_context=False)}
    if not _DECISIVE.isdisjoint(wrong):
        return None
    kept = {key: value for key, value in known.items() if key not in wrong}
    return model.model_validate(kept | ({"name": "unnamed"} if "name" in wrong else {}))


def _unique_names(parts: Parts) -> Iterator[Mistake]:
    seen: dict[str, int] = {}
    for position, name in enumerate(parts.host_names):
        first = seen.setdefault(name.casefold(), position) if name else position
        if first != position:
            yield Mistake(
                ("hosts", position, "name"), f"{shown(name)} is also the name of hosts[{first}]; names must differ"
            )


def _unique_machines(parts: Parts) -> Iterator[Mistake]:
    seen: dict[tuple[str, str, int | None], int] = {}
    for position, host in parts.good_hosts:
        key = (host.ssh_address.casefold(), host.user, host.port)
        first = seen.setdefault(key, position)
        if first != position and parts.host_names[first].casefold() != host.name.casefold():
            yield Mistake(
                ("hosts", position, "address"),
                f"hosts[{first}] ({parts.host_names[first]}) has the same address, user and port; "
                "list a machine once and give it several devices",
            )


def _master(parts: Parts) -> Iterator[Mistake]:
    if parts.cluster is None or not parts.cluster.master or parts.cluster.master in parts.host_names:
        return
    near = nearest(parts.cluster.master, [name for name in parts.host_names if name])
    hint = f"did you mean {shown(near)}?" if near else f"hosts: {', '.join(filter(None, parts.host_names)) or 'none'}"
    yield Mistake(("cluster", "master"), f"there is no host named {shown(parts.cluster.master)}; {hint}")


def _ip_addresses(parts: Parts) -> Iterator[Mistake]:
    given: list[tuple[KeyPath, str]] = [
        (("hosts", position, "train_address"), host.train_address) for position, host in parts.good_hosts
    ]
    if parts.cluster is not None:
        given.append((("cluster", "master_address"), parts.cluster.master_address))
    for path, address in given:
        if address and not is_ip_address(address):
            yield Mistake(path, f"{shown(address)} is not an IP address; a name may mean another machine on each host")


def _nccl(parts: Parts) -> Iterator[Mistake]:
    if parts.cluster is None or parts.cluster.backend != "nccl":
        return
    for position, host in parts.good_hosts:
        if host.devices in ("cpu", "mps"):
            yield Mistake(
                ("hosts", position, "devices"),
                f'{shown(host.devices)} ranks cannot use NCCL; set cluster.backend = "auto" or "gloo"',
            )


def _what_is_trained(parts: Parts) -> Iterator[Mistake]:
    training = parts.training
    if training is None:
        return
    if training.workload and training.script:
        yield Mistake(("training", "script"), "give a workload or a script, not both")
        return
    if training.script:
        yield from _script(training)
        if training.workdir:
            yield from _below_workdir(training.script)
        elif training.script.startswith("~") and any(host.runtime == "docker" for _, host in parts.good_hosts):
            yield Mistake(("training", "script"), "~ has no meaning in a container; write the path inside the image")
    elif training.workdir:
        yield Mistake(("training", "workdir"), "is for a script of your own; set script, its path below workdir")
    elif training.workload:
        yield from _workload(training)
    else:
        yield Mistake(("training",), 'give a built-in model, workload = "simple_cnn", or your own script = "train.py"')


def _below_workdir(script: str) -> Iterator[Mistake]:
    if script.startswith(("/", "~")) or ".." in script.split("/"):
        yield Mistake(("training", "script"), f"{shown(script)} must lie below workdir; write it from there")


def _script(training: Training) -> Iterator[Mistake]:
    if training.script.startswith("-"):
        yield Mistake(("training", "script"), f"{shown(training.script)} reads as an option; write ./{training.script}")
    for key, value in (("dataset", training.dataset), ("samples", training.samples)):
        if value is not None:
            yield Mistake(("training", key), "is for built-in workloads; your script brings its own data")


def _workload(training: Training) -> Iterator[Mistake]:
    dataset = training.chosen_dataset
    has_images = training.workload in IMAGE_WORKLOADS
    if dataset is not None and (dataset in IMAGE_DATASETS) != has_images:
        fitting = "synthetic_images, cifar10 or cifar100" if has_images else "synthetic_text or text"
        yield Mistake(("training", "dataset"), f"{training.workload} cannot learn from {dataset}; use {fitting}")
    elif dataset is not None and dataset not in SYNTHETIC_DATASETS:
        if training.samples is not None:
            yield Mistake(("training", "samples"), f"is for synthetic data sets; {dataset} has a size of its own")
        if not training.data_dir:
            yield Mistake(("training", "dataset"), f"{dataset} needs data_dir, the folder on every host that holds it")
    if training.args:
        yield Mistake(("training", "args"), "are for your own script; built-in workloads take keys of [training]")


def _folders(parts: Parts) -> Iterator[Mistake]:
    if parts.training is None:
        return
    for key, folder in (("data_dir", parts.training.data_dir), ("checkpoint_dir", parts.training.checkpoint_dir)):
        if folder and not _ABSOLUTE.match(folder):
            yield Mistake(("training", key), f"{shown(folder)} is relative; begin it with / or ~/")


def _resume(parts: Parts) -> Iterator[Mistake]:
    if parts.training is not None and parts.training.resume and not parts.training.checkpoint_dir:
        yield Mistake(
            ("training", "resume"),
            "needs checkpoint_dir, the folder on every host with the checkpoints; without one: hetero-tui up --resume",
        )


def _network(parts: Parts) -> Iterator[Mistake]:
    if parts.network is None:
        return
    yield from _interface(("network", "interface"), parts.network.interface)
    if not parts.network.port_range:
        return
    path: KeyPath = ("network", "port_range")
    found = _PORT_RANGE.fullmatch(parts.network.port_range)
    if found is None:
        yield Mistake(path, f'{shown(parts.network.port_range)} is not a range; write it like "29900-29950"')
        return
    low, high = int(found[1]), int(found[2])
    if not 1024 <= low <= 65535 or not 1024 <= high <= 65535:
        yield Mistake(path, f"{shown(parts.network.port_range)}: ports run from 1024 to 65535")
    elif low > high:
        yield Mistake(path, f'{shown(parts.network.port_range)} is upside down; write "{high}-{low}"')


def _interface(path: KeyPath, name: str) -> Iterator[Mistake]:
    if name and not _INTERFACE.fullmatch(name):
        yield Mistake(path, f"{shown(name)} is not one interface name; Gloo takes exactly one, no list and no ^")


def _addresses(parts: Parts) -> Iterator[Mistake]:
    for position, host in parts.good_hosts:
        path: KeyPath = ("hosts", position, "address")
        if "@" in host.address:
            yield Mistake(path, f"{shown(host.address)}: put what stands before the @ into user")
        elif re.fullmatch(r"[^:]+:\d+", host.address):
            yield Mistake(path, f"{shown(host.address)}: put the number behind the colon into port")
        elif host.address and not _ADDRESS.fullmatch(host.address):
            yield Mistake(path, f"{shown(host.address)} is neither a host name nor an IP address")
        if host.user and re.search(r"[\s@:/]|^-", host.user):
            yield Mistake(("hosts", position, "user"), f"{shown(host.user)} cannot be a user name")
        if host.is_local:
            for key in ("user", "port", "identity_file", "jump_host", "host_key"):
                if getattr(host, key):
                    yield Mistake(("hosts", position, key), 'has no effect: address = "local" uses no SSH')


def _ssh(parts: Parts) -> Iterator[Mistake]:
    for position, host in parts.good_hosts:
        if host.jump_host and not all(_is_jump(each) for each in host.jump_host.split(",")):
            yield Mistake(
                ("hosts", position, "jump_host"),
                f'{shown(host.jump_host)} is not of the form "user@host:port" (user and port may be left out)',
            )
        if host.host_key and not _FINGERPRINT.fullmatch(host.host_key):
            yield Mistake(
                ("hosts", position, "host_key"),
                "is not a fingerprint like SHA256:… (43 characters); "
                "on the host: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            )
        if host.identity_file.endswith(".pub"):
            yield Mistake(("hosts", position, "identity_file"), "is a public key; name the private key without .pub")


def _is_jump(text: str) -> bool:
    found = _JUMP.fullmatch(text.strip())
    return found is not None and (found[1] is None or 1 <= int(found[1]) <= 65535)


def _devices(parts: Parts) -> Iterator[Mistake]:
    for position, host in parts.good_hosts:
        path: KeyPath = ("hosts", position, "devices")
        if host.devices == "mps" and host.runtime != "process":
            yield Mistake(path, 'Apple GPUs are not visible in containers; set runtime = "process"')
        if not isinstance(host.devices, tuple):
            continue
        if not host.devices:
            yield Mistake(path, 'the list is empty; leave devices out for every GPU, or write "cpu"')
        for number, device in enumerate(host.devices):
            if device in host.devices[:number]:
                yield Mistake(path, f"{shown(device)} is listed twice")
            if isinstance(device, int) and device < 0:
                yield Mistake(path, f"{device} is not a GPU index; the first GPU is 0")
            if isinstance(device, str) and not device.startswith(("GPU-", "MIG-")):
                hint = (
                    f"without quotes: {device}"
                    if device.isdecimal() and device.isascii()
                    else "GPU-…, from nvidia-smi -L"
                )
                yield Mistake(path, f"{shown(device)} is not a GPU UUID; write it {hint}")


def _images(parts: Parts) -> Iterator[Mistake]:
    if parts.image is None:
        return
    for position, host in parts.good_hosts:
        if host.runtime != "docker" or host.image or parts.image.ref:
            continue
        variants = parts.image.variants
        if host.devices == "cpu":
            wanted = [variants.get("cpu")]
        elif isinstance(host.devices, tuple):
            wanted = [variants.get("cuda")]
        else:
            wanted = [variants.get("cpu"), variants.get("cuda")]
        if not any(wanted):
            yield Mistake(
                ("hosts", position),
                f"{host.name} runs containers but has no image; "
                'set ref in [image], a fitting variant, or runtime = "process"',
            )


def _image_names(parts: Parts) -> Iterator[Mistake]:
    given: list[tuple[KeyPath, str]] = [
        (("hosts", position, "image"), host.image) for position, host in parts.good_hosts
    ]
    if parts.image is not None:
        given.append((("image", "ref"), parts.image.ref))
        given += ((("image", "variants", name), ref) for name, ref in parts.image.variants.items())
    for path, ref in given:
        if ref and (ref.startswith("-") or re.search(r"\s", ref)):
            yield Mistake(path, f"{shown(ref)} cannot be an image name")


def _python(parts: Parts) -> Iterator[Mistake]:
    for position, host in parts.good_hosts:
        path: KeyPath = ("hosts", position, "python")
        if not host.python.strip() or host.python.startswith("-"):
            yield Mistake(path, f"{shown(host.python)} is not a command")
        elif "/" in host.python and not host.python.startswith(("/", "~/")):
            yield Mistake(path, f"{shown(host.python)} is relative; begin it with / or ~/")


def _environment(parts: Parts) -> Iterator[Mistake]:
    tables: list[tuple[KeyPath, Mapping[str, str]]] = [
        (("hosts", position, "env"), host.env) for position, host in parts.good_hosts
    ]
    if parts.training is not None:
        tables.append((("training", "env"), parts.training.env))
    for path, table in tables:
        for name in table:
            if not _ENVIRONMENT_NAME.fullmatch(name):
                yield Mistake((*path, name), "cannot be the name of an environment variable")
            elif is_contract_variable(name):
                yield Mistake((*path, name), "is computed by the launch plan; leave it out")


def is_ip_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 address that means the same on every host: no name, no ``%`` scope."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


_RULES: Final[tuple[Callable[[Parts], Iterator[Mistake]], ...]] = (
    _unique_names,
    _unique_machines,
    _master,
    _ip_addresses,
    _nccl,
    _what_is_trained,
    _folders,
    _resume,
    _network,
    _addresses,
    _ssh,
    _devices,
    _images,
    _image_names,
    _python,
    _environment,
)

"""The model of ``cluster.toml``: one class a table. The docstring under a key is its help text everywhere.

Pydantic would read those docstrings from the source whenever the model is made, which every command waits for;
``inventory_schema`` reads them when somebody asks for the help text.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from remote.errors import InventoryError


class Model(BaseModel):
    """Frozen, and closed: a key nobody knows is a mistake, not a comment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _checked_devices(value: object) -> object:
    """Give one clear answer where the union would give one for each of its branches."""
    if isinstance(value, str) and value in ("auto", "cpu", "mps"):
        return value
    if isinstance(value, (list, tuple)) and all(type(each) in (int, str) for each in value):
        return tuple(value)
    raise ValueError('write "auto", "cpu", "mps" or a list of GPU indices or UUIDs such as [0, 1]')


LOCAL: Final = "local"
"""The address of a host that is the machine this program runs on: no SSH."""

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=1, le=86_400)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Devices = Annotated[Literal["auto", "cpu", "mps"] | tuple[int | str, ...], BeforeValidator(_checked_devices)]
BackendChoice = Literal["auto", "gloo", "nccl"]
Encryption = Literal["none", "wireguard"]
Runtime = Literal["docker", "process"]
DeviceClass = Literal["cpu", "cuda"]
ImageMethod = Literal["auto", "present", "registry", "build", "send"]
Optimizer = Literal["sgd", "adamw"]
Policy = Literal["equal", "static", "proportional", "dynamic", "hybrid"]
Workload = Literal["simple_cnn", "resnet18", "resnet50", "gpt_small", "bert_small"]
Dataset = Literal["synthetic_images", "cifar10", "cifar100", "synthetic_text", "text"]

IMAGE_WORKLOADS: Final[frozenset[Workload]] = frozenset({"simple_cnn", "resnet18", "resnet50"})
IMAGE_DATASETS: Final[frozenset[Dataset]] = frozenset({"synthetic_images", "cifar10", "cifar100"})
SYNTHETIC_DATASETS: Final[frozenset[Dataset]] = frozenset({"synthetic_images", "synthetic_text"})


class Cluster(Model):
    """The job as a whole."""

    name: Name
    """Name of the cluster; part of container names and of the results folder."""
    master: str = ""
    """Name of the host that gets rank 0 and owns the rendezvous; the first host when left out."""
    master_address: str = ""
    """IP address the ranks dial; found from the routes between the hosts when left out."""
    port: Port = 29500
    """TCP port of the rendezvous on the master."""
    backend: BackendChoice = "auto"
    """``auto`` takes NCCL when every rank is CUDA, else Gloo."""


class Image(Model):
    """Which container image runs where."""

    ref: str = ""
    """Image every host runs unless a variant or the host says otherwise."""
    variants: dict[DeviceClass, str] = Field(default_factory=dict)
    """Image for each device class, for example ``cuda`` and ``cpu``."""
    method: ImageMethod = "auto"
    """How the image reaches the hosts: ``auto`` takes what is there, sends it from a host that has it, builds it where
    there is a context, else pulls it."""
    context: str = ""
    """Folder on this machine with a Dockerfile, from where this file is; the image is built from it."""
    dockerfile: str = "Dockerfile"
    """Path of the Dockerfile in the context."""
    build_args: dict[str, str] = Field(default_factory=dict)
    """Build arguments. ``DEVICE`` is added (``cpu`` or ``cuda``) where the Dockerfile knows it. No secrets."""
    build_on: Literal["one", "each"] = "one"
    """``one`` builds once for each kind of host and sends it to the others; ``each`` builds on every host, whose layers
    then differ."""


class Training(Model):
    """What is trained and how the work is shared out."""

    workload: Workload | None = None
    """Built-in model; give this or ``script``."""
    dataset: Dataset | None = None
    """Data of the built-in workload; its own default when left out."""
    script: str = ""
    """Path of your training script inside the image (or on the host with runtime ``process``); with ``workdir``, below
    that folder."""
    workdir: str = ""
    """Folder on this machine with your code, from where this file is; sent to every host before each run, as far as it
    changed, and seen there read-only. ``.heteroignore`` leaves files out."""
    args: tuple[str, ...] = ()
    """Arguments of the script."""
    global_batch: Annotated[int, Field(ge=1, le=2**31 - 1)] = 256
    """Samples of one optimizer step over all ranks together. Never changed by the program."""
    epochs: Annotated[int, Field(ge=1, le=2**31 - 1)] = 3
    """Passes over the data set."""
    samples: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None
    """Size of a synthetic data set."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Step size of the optimizer of a built-in workload; one that works with it when left out."""
    optimizer: Optimizer | None = None
    """Optimizer of a built-in workload; its own when left out."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Makes weights, data order and synthetic data repeatable."""
    policy: Policy = "dynamic"
    """How the global batch is shared out."""
    communication: Literal["auto", "exact", "bf16", "fp16", "powersgd", "local_sgd"] = "exact"
    """How gradients travel: ``exact``, or compressed or less often for slow links."""
    elastic: bool = True
    """Go on when a rank is lost."""
    data_dir: str = ""
    """Folder with the data set on every host."""
    checkpoint_dir: str = ""
    """Folder on every host where checkpoints stay; when left out, the newest comes home to the run's folder."""
    resume: bool = False
    """Go on from the newest good checkpoint in ``checkpoint_dir``."""
    checkpoint_every: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Optimizer steps between checkpoints; 0 writes one at the end only."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every rank."""

    @property
    def chosen_dataset(self) -> Dataset | None:
        """The data set, or the default of the workload; None with a script."""
        if self.dataset is not None or self.workload is None:
            return self.dataset
        return "synthetic_images" if self.workload in IMAGE_WORKLOADS else "synthetic_text"


class Network(Model):
    """What the ranks talk over."""

    encryption: Encryption = "none"
    """``wireguard`` sets up an encrypted overlay between the hosts for each run, over UDP port ``cluster.port``, and
    takes it down behind it: for networks you do not trust and hosts on different networks. Needs Linux and root, or
    ``sudo`` without a password, on every host."""

    interface: str = "auto"
    """Interface the ranks talk over; found per host from the route to the master when ``auto``."""
    port_range: str = ""
    """Fixed range of data ports such as ``29900-29950``; any ephemeral port when left out."""


class Limits(Model):
    """When waiting is over, and how often a failed run is tried again. Times are in seconds."""

    no_contact_seconds: Seconds = 4.0
    """A host that has answered nothing for so long is told as unreachable; training there may go on."""
    lost_rank_seconds: Annotated[float, Field(ge=0.5, le=600)] = 2.0
    """A rank without a sign of life for so long counts as lost in an elastic run: stopped, frozen or cut off."""
    no_progress_seconds: Seconds = 300.0
    """A run in which no rank has completed a step for so long is told as hung."""
    lost_host_seconds: Seconds = 30.0
    """How long a lost host may take to come back after the run has ended on all others."""
    launch_seconds: Seconds = 60.0
    """How long the ranks may take from the launch until all are ready."""
    stop_seconds: Annotated[float, Field(ge=1, le=600)] = 10.0
    """How long after the request to stop ranks that have not ended by themselves are killed; half of it is theirs."""
    restarts: Annotated[int, Field(ge=0, le=1000)] = 0
    """How often a failed run is started again from its newest checkpoint, without hosts that are gone."""
    restart_wait_seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """Wait before the first restart; doubled for each one in a row, up to 300."""


class Host(Model):
    """One machine."""

    name: Name
    """How you call the machine."""
    address: str = ""
    """Host name or IP address for SSH; ``local`` is the machine this program runs on. The name when left out."""
    user: str = ""
    """SSH user; ``~/.ssh/config`` and then the local user when left out."""
    port: Port | None = None
    """SSH port; ``~/.ssh/config`` and then 22 when left out."""
    identity_file: str = ""
    """Private key file; the agent and ``~/.ssh/config`` when left out."""
    jump_host: str = ""
    """``user@host:port`` to go through, as in ``ssh -J``."""
    host_key: str = ""
    """Pinned fingerprint, ``SHA256:…``; the known_hosts files when left out."""
    train_address: str = ""
    """IP address the other ranks reach this host at, when it differs from the one on the route to the master."""
    interface: str = ""
    """Interface of this host the ranks talk over; ``network.interface`` when left out."""
    devices: Devices = "auto"
    """``auto`` takes every GPU, else the CPU; or a list of GPU indices or UUIDs."""
    runtime: Runtime = "docker"
    """``docker``, or ``process`` for a virtual environment on the host."""
    image: str = ""
    """Image of this host only."""
    python: str = "python3"
    """Python with the trainer installed (runtime ``process``)."""
    docker_socket: str = ""
    """Engine socket on the host; found when left out."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of this host's ranks."""
    simulated_samples_per_second: Annotated[float, Field(gt=0)] | None = None
    """Hold this host's ranks down to this speed, for demonstrations. Every screen says so."""

    @field_validator("identity_file")
    @classmethod
    def _expand_home(cls, value: str) -> str:
        if not value.startswith("~"):
            return value
        try:
            return str(Path(value).expanduser())
        except RuntimeError:
            raise ValueError("there is no such home folder on this machine") from None

    @property
    def is_local(self) -> bool:
        """Whether this host is the machine this program runs on."""
        return self.address == LOCAL

    @property
    def ssh_address(self) -> str:
        """What SSH connects to: the address, or the name, which ``~/.ssh/config`` may know as an alias."""
        return self.address or self.name

    @property
    def is_loopback(self) -> bool:
        """Whether the address only means something on the machine this program runs on."""
        if self.is_local or self.ssh_address == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.ssh_address).is_loopback
        except ValueError:
            return False


class Inventory(Model):
    """The whole file."""

    cluster: Cluster
    """Name, master and rendezvous of the job."""
    image: Image = Image()
    """Which container image runs where; not needed when every host has runtime ``process``."""
    training: Training = Training()
    """Model or script, data, batch, and how the batch is shared out."""
    network: Network = Network()
    """Interface and ports of the ranks."""
    limits: Limits = Limits()
    """When waiting is over, and how often a failed run is tried again."""
    hosts: Annotated[tuple[Host, ...], Field(min_length=1)]
    """The machines, one ``[[hosts]]`` each; the first is the master unless ``cluster.master`` names another."""

    @property
    def master(self) -> Host:
        """The host that gets rank 0.

        Raises:
            InventoryError: ``cluster.master`` names no host.
        """
        if not self.cluster.master:
            return self.hosts[0]
        try:
            return self.host(self.cluster.master)
        except KeyError:
            raise InventoryError(f"cluster.master: there is no host named {self.cluster.master!r}") from None

    def host(self, name: str) -> Host:
        """Return the host of that name.

        Raises:
            KeyError: no such host.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    @property
    def needs_docker(self) -> bool:
        """Whether any host runs containers."""
        return any(host.runtime == "docker" for host in self.hosts)

    def image_for(self, host: Host, device_class: DeviceClass) -> str:
        """Return the image of a host whose ranks use that class of device: its own, the variant, or the common one.

        Raises:
            InventoryError: none of the three is given.
        """
        found = host.image or self.image.variants.get(device_class, "") or self.image.ref
        if found:
            return found
        raise InventoryError(
            f"no image for {device_class} ranks",
            host=host.name,
            next_step=f"set image.ref, image.variants.{device_class} or the host's image",
        )

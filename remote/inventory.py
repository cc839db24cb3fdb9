"""``cluster.toml`` as a validated, frozen model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """Frozen, and closed: a key nobody knows is a mistake, not a comment."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Port = Annotated[int, Field(ge=1, le=65535)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
BackendChoice = Literal["auto", "gloo", "nccl"]
Runtime = Literal["docker", "process"]
DeviceClass = Literal["cpu", "cuda"]
ImageMethod = Literal["auto", "present", "registry", "build", "send"]
Policy = Literal["equal", "static", "proportional", "dynamic", "hybrid"]
Workload = Literal["simple_cnn", "resnet18", "resnet50", "gpt_small", "bert_small"]
Dataset = Literal["synthetic_images", "cifar10", "cifar100", "synthetic_text", "text"]


class Cluster(Model):
    """The job as a whole."""

    name: Name
    """Name of the cluster; part of container names and of the results folder."""
    master: str = ""
    """Name of the host that gets rank 0 and owns the rendezvous; the first host when left out."""
    master_address: str = ""
    """Address the ranks dial; found from the routes between the hosts when left out."""
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
    """How the image reaches the hosts."""


class Training(Model):
    """What is trained and how the work is shared out."""

    workload: Workload | None = None
    """Built-in model; give this or ``script``."""
    dataset: Dataset | None = None
    """Data of the built-in workload; its own default when left out."""
    script: str = ""
    """Path of your training script inside the image (or on the host with runtime ``process``)."""
    args: tuple[str, ...] = ()
    """Arguments of the script."""
    global_batch: Annotated[int, Field(ge=1)] = 256
    """Samples of one optimizer step over all ranks together. Never changed by the program."""
    epochs: Annotated[int, Field(ge=1)] = 3
    samples: Annotated[int, Field(ge=1)] | None = None
    """Size of a synthetic data set."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    seed: int = 0
    policy: Policy = "dynamic"
    """How the global batch is shared out."""
    communication: Literal["auto", "exact", "bf16", "fp16", "powersgd", "local_sgd", "diloco"] = "exact"
    elastic: bool = True
    """Go on when a rank is lost."""
    data_dir: str = ""
    """Folder with the data set on every host."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps between checkpoints; 0 writes one at the end only."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every rank."""


class Network(Model):
    """What the ranks talk over."""

    interface: str = "auto"
    """Interface the ranks talk over; found per host from the route to the master when ``auto``."""
    port_range: str = ""
    """Fixed range of data ports such as ``29900-29950``; any ephemeral port when left out."""


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
    """Address the other ranks reach this host at, when it differs from the one on the route to the master."""
    devices: Literal["auto", "cpu", "mps"] | tuple[int | str, ...] = "auto"
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


class Inventory(Model):
    """The whole file."""

    cluster: Cluster
    image: Image = Image()
    training: Training = Training()
    network: Network = Network()
    hosts: Annotated[tuple[Host, ...], Field(min_length=1)]

    @property
    def master(self) -> Host:
        """The host that gets rank 0."""
        wanted = self.cluster.master or self.hosts[0].name
        return next(host for host in self.hosts if host.name == wanted)

    def host(self, name: str) -> Host:
        """Return the host of that name.

        Raises:
            KeyError: no such host.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

"""The engine, what is left on it, and the job's image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from remote.checks.model import Fix
from remote.plan_contract import LABEL_CLUSTER, LABEL_HOST, LABEL_RANKS, LABEL_RUN
from tests.rig.clusters import cluster_toml
from tests.rig.faults.bench import EVERYTHING, Bench
from tests.rig.faults.model import Case, Fault, healthy_text
from tests.rig.hosts import RigHost
from tests.rig.machine import LOGIN_USER


@contextmanager
def dead_engine(bench: Bench) -> Iterator[None]:
    host = bench.host("h2")
    host.kill_engine()
    try:
        yield
    finally:
        host.heal()


@contextmanager
def no_right(bench: Bench) -> Iterator[None]:
    host = bench.host("h2")
    host.run("gpasswd", "--delete", LOGIN_USER, "docker")
    try:
        yield
    finally:
        host.run("usermod", "-aG", "docker", LOGIN_USER)


async def new_group(case: Case, fix: Fix) -> None:
    case.bench.run_fix(fix)
    await case.reconnect()


def sleeper(host: RigHost, image: str, *labels: str, script: str = "import time; time.sleep(600)") -> None:
    """Start a container on the host's network that lives on."""
    marks = [word for label in labels for word in ("--label", label)]
    host.docker("run", "--detach", "--init", "--network=host", *marks, image, "python3", "-c", script)


@contextmanager
def own_run_alive(bench: Bench) -> Iterator[None]:
    """Leave a rank of an earlier run of this cluster alive on h3."""
    host = bench.host("h3")
    labels = {LABEL_RUN: "20250101-000000-dead", LABEL_CLUSTER: "rig", LABEL_HOST: "h3", LABEL_RANKS: "2"}
    sleeper(host, bench.rig.image, *(f"{name}={value}" for name, value in labels.items()))
    try:
        yield
    finally:
        host.heal()


LISTENER = """
import socket, time
s = socket.create_server(("", 29500))
time.sleep(600)
"""


@contextmanager
def strangers_container(bench: Bench) -> Iterator[None]:
    """Let somebody else's container hold the master's port."""
    host = bench.host("h1")
    sleeper(host, bench.rig.image, "com.example.job=theirs", script=LISTENER)
    host.run("sh", "-c", "until ss -Hltn 'sport = :29500' | grep -q .; do sleep 0.05; done")
    try:
        yield
        assert len(host.containers("label=com.example.job")) == 1, "nobody touches what is not ours"
    finally:
        host.heal()


@contextmanager
def port_taken(bench: Bench) -> Iterator[None]:
    host = bench.host("h1")
    host.start_daemon(["python3", "-c", LISTENER], "listener.log")
    host.run("sh", "-c", "until ss -Hltn 'sport = :29500' | grep -q .; do sleep 0.05; done")
    try:
        yield
    finally:
        host.run("pkill", "-f", "create_server")


async def next_port(case: Case, fix: Fix) -> None:
    """Take the port the fix names."""
    port = fix.text.partition("set port = ")[2].split()[0]
    assert port.isdigit()
    await case.rewrite(case.text.replace("[cluster]\n", f"[cluster]\nport = {port}\n"))


SMALL = "small:1"
WITHOUT_CONTAINERS = ("ssh", "system", "engine", "engine-kind", "stale-runs", "disk", "image", "same-image", "output")
"""Checks that start no container: a small image holds nothing to start."""


def small_text(bench: Bench) -> str:
    """Run a job in an image of a few bytes, which travels in no time."""
    return healthy_text(bench).replace(bench.rig.image, SMALL)


def import_small(host: RigHost, content: str) -> None:
    tar = "tar --create --mtime=@0 --owner=0 --group=0 --numeric-owner --directory=/tmp/small ."
    host.run("sh", "-c", f"mkdir -p /tmp/small && echo {content} >/tmp/small/file && touch -d @0 /tmp/small")
    host.run("sh", "-c", f"{tar} | docker import - {SMALL}; rm -r /tmp/small")


def small_image(change: Callable[[RigHost], None]) -> Callable[[Bench], AbstractContextManager[object]]:
    """Give every host a small image, and h3 something else for as long as the fault lasts."""

    @contextmanager
    def inject(bench: Bench) -> Iterator[None]:
        for host in bench.rig.hosts:
            import_small(host, "the same")
        try:
            change(bench.host("h3"))
            yield
        finally:
            for host in bench.rig.hosts:
                host.docker("rmi", "--force", SMALL, check=False)
                host.docker("image", "prune", "--force")

    return inject


def remove(host: RigHost) -> None:
    host.docker("rmi", SMALL)


def build_once_more(host: RigHost) -> None:
    import_small(host, "something else")


RELABEL = """
import hashlib, json, pathlib, sys, tarfile
folder = pathlib.Path("/tmp/relabel")
manifest = json.loads((folder / "manifest.json").read_text())
config = json.loads((folder / manifest[0]["Config"]).read_text())
config["architecture"] = "arm64"
text = json.dumps(config)
name = hashlib.sha256(text.encode()).hexdigest() + ".json"
(folder / name).write_text(text)
manifest[0]["Config"] = name
(folder / "manifest.json").write_text(json.dumps(manifest))
with tarfile.open("/tmp/relabel.tar", "w") as tar:
    tar.add(folder, ".")
"""


def for_another_processor(host: RigHost) -> None:
    """Load the same image as one for ARM, as somebody does who built it on a Mac."""
    host.run("sh", "-c", f"mkdir /tmp/relabel && docker save {SMALL} | tar x -C /tmp/relabel")
    host.run("python3", "-c", RELABEL)
    host.docker("load", "--input", "/tmp/relabel.tar")
    host.run("rm", "-r", "/tmp/relabel", "/tmp/relabel.tar")


async def build_again(case: Case, fix: Fix) -> None:
    """Make the image for the right processor where the fix says, by the rig's own means: it has no builder plugin."""
    assert fix.commands == (f"docker buildx build --platform linux/amd64 --load -t {SMALL} .",)
    import_small(case.bench.host(fix.host), "the same")


def without_trainer(bench: Bench) -> str:
    return healthy_text(bench) + 'image = "bare:1"\n'


@contextmanager
def bare_image(bench: Bench) -> Iterator[None]:
    """Give h3 an image whose torch cannot be imported."""
    host = bench.host("h3")
    host.docker("create", "--name", "bare", bench.rig.image, "true")
    host.run("sh", "-c", "mkdir /tmp/broken && echo 'import no_such_module' >/tmp/broken/torch.py")
    host.docker("cp", "/tmp/broken/torch.py", "bare:/opt/hetero/torch.py")
    host.docker("commit", "--change", "ENV PYTHONPATH=/opt/hetero", "bare", "bare:1")
    host.docker("rm", "bare")
    try:
        yield
    finally:
        host.run("rm", "-r", "/tmp/broken")
        host.docker("rmi", "bare:1")


async def own_image_no_more(case: Case, _: Fix) -> None:
    await case.rewrite(healthy_text(case.bench))


CODE = "/hetero/data/train.py"


def hidden_code(bench: Bench) -> str:
    return (
        cluster_toml(bench.rig, {"data_dir": f"/srv/{LOGIN_USER}/set"})
        .replace('workload = "simple_cnn"', f'script = "{CODE}"')
        .replace(bench.rig.image, "own:1")
        .replace("samples = 1920\n", "")
    )


@contextmanager
def mounted_over(bench: Bench) -> Iterator[None]:
    """Bake a script into the image of all hosts, where the job mounts its data; other files are in the data folder."""
    for host in bench.rig.hosts:
        folder = f"/srv/{LOGIN_USER}/set"
        host.run("sh", "-c", f"mkdir {folder} && echo data >{folder}/one && mkdir -p /tmp/own/data")
        host.run("sh", "-c", "echo 'import torch' >/tmp/own/data/train.py && cp /tmp/own/data/train.py /tmp/own/")
        host.docker("create", "--name", "own", bench.rig.image, "true")
        host.docker("cp", "/tmp/own/data", "own:/hetero/data")
        host.docker("cp", "/tmp/own/train.py", "own:/hetero/train.py")
        host.docker("commit", "own", "own:1")
        host.docker("rm", "own")
    try:
        yield
    finally:
        for host in bench.rig.hosts:
            host.run("rm", "-r", f"/srv/{LOGIN_USER}/set", "/tmp/own")
            host.docker("rmi", "own:1")


async def outside_the_mount(case: Case, fix: Fix) -> None:
    assert "not below /hetero/data" in fix.text
    await case.rewrite(case.text.replace(CODE, "/hetero/train.py"))


FAULTS = (
    Fault(
        name="dead-engine",
        codes=("PF-08",),
        inject=dead_engine,
        check="engine",
        at=("h2",),
        reason="does not answer",
        fix="systemctl enable --now docker",
        also_warns=frozenset({("probe", "h2")}),
    ),
    Fault(
        name="no-socket-rights",
        codes=("PF-09",),
        inject=no_right,
        check="engine",
        at=("h2",),
        reason="may not use the engine's socket",
        fix=f"usermod -aG docker {LOGIN_USER}",
        repair=new_group,
        also_warns=frozenset({("probe", "h2")}),
    ),
    Fault(
        name="own-run-alive",
        codes=("PF-13",),
        inject=own_run_alive,
        check="stale-runs",
        at=("h3",),
        reason="20250101-000000-dead is still alive",
        fix="hetero-tui stop cluster.toml",
    ),
    Fault(
        name="strangers-container-on-the-port",
        codes=("PF-12", "PF-41"),
        inject=strangers_container,
        check="master-port",
        at=("h1",),
        reason="port 29500 is in use",
        fix="set port = 295",
        repair=next_port,
    ),
    Fault(
        name="port-taken",
        codes=("PF-41",),
        inject=port_taken,
        check="master-port",
        at=("h1",),
        reason="port 29500 is in use",
        fix="set port = 295",
        repair=next_port,
    ),
    Fault(
        name="image-missing",
        codes=("PF-24",),
        inject=small_image(remove),
        text=small_text,
        looks_at=WITHOUT_CONTAINERS,
        check="image",
        at=("h3",),
        reason="is not on the host",
        fix="hetero-tui images cluster.toml --bring",
    ),
    Fault(
        name="other-image",
        codes=("PF-25", "PF-30"),
        inject=small_image(build_once_more),
        text=small_text,
        looks_at=WITHOUT_CONTAINERS,
        check="same-image",
        at=("",),
        reason="not the same on h3 as on h1, h2",
        fix="docker load",
    ),
    Fault(
        name="wrong-architecture",
        codes=("PF-27",),
        inject=small_image(for_another_processor),
        text=small_text,
        looks_at=WITHOUT_CONTAINERS,
        check="image",
        at=("h3",),
        reason="is made for arm64",
        fix="--platform linux/amd64",
        repair=build_again,
    ),
    Fault(
        name="mount-hides-the-code",
        codes=("PF-21",),
        inject=mounted_over,
        text=hidden_code,
        check="script",
        at=("h1", "h2", "h3"),
        reason="data_dir is mounted over /hetero/data",
        fix="where no folder of the host is mounted",
        repair=outside_the_mount,
        looks_at=("engine", "image", "data", "output", "plan", "script"),
    ),
    Fault(
        name="image-without-torch",
        codes=("PF-26", "PF-56"),
        inject=bare_image,
        text=without_trainer,
        check="image-python",
        at=("h3",),
        reason="cannot import torch",
        fix="put it into the image",
        repair=own_image_no_more,
        looks_at=EVERYTHING,
    ),
)

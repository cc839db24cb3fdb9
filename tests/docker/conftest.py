"""A real Docker Engine of its own, without networks, for tests that must not touch the machine's engine."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio

from remote.engine import Engine
from remote.local import LocalRunner

REPOSITORY = "hetero-test/busybox"
IMAGE = f"{REPOSITORY}:1"
APPLETS = (
    "sh",
    "cat",
    "echo",
    "env",
    "false",
    "kill",
    "ls",
    "printf",
    "seq",
    "sleep",
    "true",
    "id",
    "ulimit",
    "df",
    "chown",
)
START_SECONDS = 30.0


@pytest.fixture(scope="session")
def docker_socket() -> Iterator[str]:
    """Path of the socket of an engine that has the image ``IMAGE``.

    It is started for these tests; ``HETERO_TEST_DOCKER_SOCKET`` names another one, such as a newer release's. That one
    must have no containers.
    """
    busybox = _needed()
    if given := os.environ.get("HETERO_TEST_DOCKER_SOCKET"):
        _load_image(docker.APIClient(base_url=f"unix://{given}", version="auto"), busybox)
        yield given
        return
    # A unix socket's path may have 107 bytes; pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="hetero-dockerd-"))
    path = folder / "docker.sock"
    command = ["dockerd", "-H", f"unix://{path}", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["-p", f"{folder}/pid", "--bridge=none", "--iptables=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _load_image(_wait_for(process, path, folder / "log"), busybox)
        yield str(path)
    finally:
        process.terminate()
        process.wait(30)
        _unmount_below(folder)
        shutil.rmtree(folder)


@pytest_asyncio.fixture
async def engine(docker_socket: str) -> AsyncIterator[Engine]:
    engine = await Engine.open(LocalRunner("box"), docker_socket)
    before = {container["Id"] for container in await engine.list({})}
    yield engine
    for container in await engine.list({}):
        if container["Id"] not in before:
            await engine.remove(str(container["Id"]))
    await engine.close()


def _needed() -> Path:
    if os.geteuid() != 0:
        pytest.skip("starting an engine needs root")
    if shutil.which("dockerd") is None:
        pytest.skip("dockerd is not installed")
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    return Path(busybox)


def _wait_for(process: subprocess.Popen[bytes], path: Path, log: Path) -> docker.APIClient:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return docker.APIClient(base_url=f"unix://{path}", version="auto")
        time.sleep(0.05)
    pytest.skip(f"dockerd does not run here: {log.read_text(errors='replace')[-400:]}")


def _unmount_below(folder: Path) -> None:
    """Take away what the engine leaves mounted in its folders, such as the network namespace of its host."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in sorted((each for each in mounted if each.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", path], check=True)


def _load_image(client: docker.APIClient, busybox: Path) -> None:
    client.import_image_from_data(_root(busybox), repository=REPOSITORY, tag="1", changes=["ENV PATH=/bin"])
    client.close()


def _root(busybox: Path) -> bytes:
    """Return a root file system with busybox and links for its commands."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "tmp", "proc", "sys", "dev", "etc"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(member)
        program = tarfile.TarInfo("bin/busybox")
        data = busybox.read_bytes()
        program.size, program.mode = len(data), 0o755
        tar.addfile(program, io.BytesIO(data))
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()

"""Datasets that are not there are downloaded once, checked, and asked for by name where that is impossible."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.cluster import REPOSITORY
from tests.trainer.test_workloads import write_cifar
from trainer import download, workloads
from trainer.download import CIFAR10, CIFAR100, MIRROR, SHAKESPEARE, Download, fetch
from trainer.errors import DataError
from trainer.options import Options


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on 127.0.0.1 and notes what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

            def log_message(self, *arguments: object) -> None:
                asked.append(self.path)

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    with Server(folder) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def archive(tmp_path: Path, classes: int) -> bytes:
    """Return an archive like that of CIFAR, with few images."""
    inner = "cifar-10-batches-bin" if classes == 10 else "cifar-100-binary"
    source = tmp_path / f"source{classes}"
    write_cifar(source / inner, classes, 3)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as packed:
        packed.add(source / inner, inner)
        packed.addfile(tarfile.TarInfo("../outside"))
    return content.getvalue()


def like(original: Download, content: bytes, server: Server | None = None) -> Download:
    """Return a download of other content under the name of the original."""
    url = f"{server.url}/{original.name}" if server else original.url
    return dataclasses.replace(original, url=url, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


@pytest.mark.parametrize(("classes", "original"), [(10, CIFAR10), (100, CIFAR100)])
def test_cifar_is_downloaded_checked_and_unpacked(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, classes: int, original: Download
) -> None:
    content = archive(tmp_path, classes)
    (tmp_path / "served" / original.name).write_bytes(content)
    monkeypatch.setattr(download, f"CIFAR{classes}", like(original, content))
    monkeypatch.setenv(MIRROR, server.url)
    told: list[str] = []
    for _ in range(2):
        options = Options(dataset=f"cifar{classes}", data_dir=tmp_path / "data")
        assert workloads.build(options, told.append).source.size == (15 if classes == 10 else 3)
    assert len(server.asked) == 1, "what is there is not downloaded again"
    assert told == [f"downloading {server.url}/{original.name} (0 MB) to {tmp_path / 'data'}"]
    assert not (tmp_path / "outside").exists()


def test_text_is_downloaded_where_there_is_none(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"To be, or not to be, that is the question. " * 40
    (tmp_path / "served" / SHAKESPEARE.name).write_bytes(content)
    monkeypatch.setattr(download, "SHAKESPEARE", like(SHAKESPEARE, content))
    monkeypatch.setenv(MIRROR, server.url)
    (tmp_path / "data" / "text").mkdir(parents=True)
    workload = workloads.build(Options(workload="gpt_small", dataset="text", data_dir=tmp_path / "data"))
    assert workload.source.size == (len(content) - 1) // 128


RANK = """
import sys
from pathlib import Path
from trainer.download import Download, fetch
url, digest, length, folder = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
fetch(Download(url, digest, int(length)), Path(folder), lambda text: print(text, flush=True))
print("there", flush=True)
"""


def test_exactly_one_of_several_ranks_downloads(tmp_path: Path, server: Server) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "served" / "file.txt").write_bytes(content)
    arguments = [f"{server.url}/file.txt", hashlib.sha256(content).hexdigest(), str(len(content)), str(tmp_path / "d")]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
    said = [_finish(rank) for rank in ranks]
    assert server.asked == ["/file.txt"]
    assert sum("downloading" in each for each in said) == 1
    assert all(each.endswith("there\n") for each in said)
    assert (tmp_path / "d" / "file.txt").read_bytes() == content


def _finish(rank: subprocess.Popen[str]) -> str:
    said, _ = rank.communicate("go\n", timeout=120)
    assert rank.returncode == 0
    return said


def test_a_rank_that_waits_says_so_and_checks_what_it_finds(tmp_path: Path) -> None:
    wanted = like(SHAKESPEARE, b"good")
    told: list[str] = []
    with download._locked(tmp_path / ".input.txt.lock", lambda: None):
        found = threading.Event()

        def tell(text: str) -> None:
            told.append(text)
            found.set()

        def wait() -> None:
            with pytest.raises(DataError):
                fetch(wanted, tmp_path, tell)
            told.append("refused")

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert found.wait(60)
        (tmp_path / "input.txt").write_bytes(b"evil")
    waiting.join()
    assert told == [f"waiting for another rank to download {tmp_path / 'input.txt'}", "refused"]
    assert not (tmp_path / "input.txt").exists(), "a damaged file must not be used the next time"


def test_a_file_brought_by_hand_is_used_and_a_changed_one_refused(tmp_path: Path) -> None:
    content = archive(tmp_path, 100)
    wanted = like(CIFAR100, content)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / wanted.name).write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"has {len(content) - 1} bytes and SHA-256 [0-9a-f]{{64}}, expected"):
        fetch(wanted, folder, print)
    (folder / wanted.name).write_bytes(content)
    fetch(wanted, folder, print, allowed=False)
    assert (folder / "cifar-100-binary" / "train.bin").stat().st_size == 3 * 3074


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError) as refused:
        fetch(CIFAR10, tmp_path / "data", print, allowed=False)
    for part in ("data_batch_5.bin", str(tmp_path / "data" / CIFAR10.name), CIFAR10.sha256, CIFAR10.url, MIRROR):
        assert part in str(refused.value)
    with pytest.raises(DataError, match="answers 404"):
        fetch(like(CIFAR10, b"", server), tmp_path / "data", print)
    closed = dataclasses.replace(CIFAR10, url="http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/cifar.tar.gz cannot be reached"):
        fetch(closed, tmp_path / "data", print)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Not a directory|File exists"):
        fetch(CIFAR10, tmp_path / "file", print)


def test_a_download_of_something_else_is_thrown_away(tmp_path: Path, server: Server) -> None:
    (tmp_path / "served" / SHAKESPEARE.name).write_bytes(b"<html>please log in to this network</html>")
    wanted = dataclasses.replace(SHAKESPEARE, url=f"{server.url}/{SHAKESPEARE.name}")
    with pytest.raises(DataError, match="something on the way changes the file"):
        fetch(wanted, tmp_path / "data", print)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".input.txt.lock"]

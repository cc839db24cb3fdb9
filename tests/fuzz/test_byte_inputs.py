"""What hosts send as bytes: the engine's HTTP, archives of results and images, checkpoints. Nothing gets out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from remote.checkpoints import newest_good
from remote.engine_http import Demultiplexer, FramingError, get
from remote.errors import ImageError, RemoteError, ResultsError
from remote.images.archive import read_archive
from remote.images.store import LayerStore
from remote.unpack import unpack
from tests.fuzz.hostile import Stream, few, fresh_folder, in_chunks, mangled, mangled_tar, tar_of, texts, untouched

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
)
REFUSAL = b'HTTP/1.1 404 Not Found\r\nContent-Length: 22\r\n\r\n{"message":"no such x"}'
FRAMES = b"\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x01x"
OUTPUT = tar_of(
    [("checkpoints/step-00000010.pt", b"weights" * 99), ("note.txt", b"hi")], links=[("link", "/etc/passwd")]
)
LAYER = b"layer" * 300
CONFIG = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}}).encode()
MANIFEST = json.dumps([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}]).encode()
IMAGE = tar_of(
    [("l/layer.tar", LAYER), ("c.json", CONFIG), ("manifest.json", MANIFEST)], links=[("m/layer.tar", "../l")]
)


@few
@given(st.one_of(mangled(ANSWER), mangled(REFUSAL), st.binary(max_size=300)), st.sampled_from([1, 7, 4096]))
def test_an_engines_answer_is_read_or_refused(data: bytes, size: int) -> None:
    async def ask() -> None:
        with contextlib.suppress(RemoteError):
            answer = await get(Stream(data, size), "/x", "h1")
            if answer.status >= 400:
                assert isinstance(await answer.error_message(), str)
            async for _ in answer.body:
                pass

    asyncio.run(ask())


def test_a_deep_refusal_of_an_engine_is_a_text() -> None:
    deep = b"[" * 60_000
    head = f"HTTP/1.1 500 X\r\nContent-Length: {len(deep)}\r\n\r\n".encode()

    async def ask() -> str:
        return await (await get(Stream(head + deep, 4096), "/x", "h1")).error_message()

    assert asyncio.run(ask()).startswith("[[[")


@few
@given(st.one_of(mangled(FRAMES), st.binary(max_size=100)), st.sampled_from([1, 3, 64]))
def test_frames_of_a_log_are_taken_apart_or_refused(data: bytes, size: int) -> None:
    demultiplexer = Demultiplexer()
    with contextlib.suppress(FramingError):
        for at in range(0, len(data), size):
            demultiplexer.feed(data[at : at + size])


@few
@given(mangled_tar(OUTPUT), st.sampled_from([1, 512, 700]))
def test_an_archive_of_results_stays_in_its_folder(data: bytes, size: int) -> None:
    with fresh_folder() as folder, untouched(folder, {"kept": b"mine"}):
        into = folder / "into"
        into.mkdir()
        with contextlib.suppress(ResultsError):
            asyncio.run(unpack(in_chunks(data, size), into, lambda path: path, host="h1"))
        assert not [path for path in into.rglob("*") if path.is_symlink()]
        assert {path.name for path in folder.iterdir()} == {"into", "kept"}


@few
@given(texts.filter(lambda name: "\0" not in name and name not in ("", ".") and "\ud800" not in name))
def test_no_member_of_an_archive_is_written_outside(name: str) -> None:
    with fresh_folder() as folder:
        into = folder / "into"
        into.mkdir()
        with contextlib.suppress(ResultsError):
            asyncio.run(unpack(in_chunks(tar_of([(f"../{name}", b"x")]), 512), into, lambda path: path, host="h1"))
        assert {path for path in folder.rglob("*") if into not in path.parents} == {into}


@few
@given(mangled_tar(IMAGE), st.sampled_from([1, 512, 5000]))
def test_an_image_archive_is_taken_or_refused(data: bytes, size: int) -> None:
    with fresh_folder() as folder:
        store = LayerStore.open(folder / "store")
        with contextlib.suppress(ImageError):
            asyncio.run(read_archive(in_chunks(data, size), store))
        assert [path for path in store.blobs.iterdir() if len(path.name) != 64] == []


@few
@given(
    st.dictionaries(st.sampled_from(["path", "size", "linkpath"]), texts.filter(lambda text: "\ud800" not in text)),
    st.one_of(st.binary(max_size=50), st.just(b"[" * 60_000), st.just(b'[{"Config":[],"Layers":7}]')),
)
def test_extension_headers_of_an_archive_lie(headers: dict[str, str], manifest: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for name in ("manifest.json", "l/layer.tar"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.pax_headers = len(manifest), headers
            tar.addfile(entry, io.BytesIO(manifest))
    with fresh_folder() as folder:
        with contextlib.suppress(ImageError):
            asyncio.run(read_archive(in_chunks(buffer.getvalue(), 4096), LayerStore.open(folder / "store")))
        into = folder / "into"
        into.mkdir()
        with contextlib.suppress(ResultsError):
            asyncio.run(unpack(in_chunks(buffer.getvalue(), 4096), into, lambda path: path, host="h1"))
        assert {path.name for path in folder.iterdir()} == {"into", "store"}


@few
@given(st.binary(max_size=200), st.binary(max_size=100))
def test_a_checkpoint_counts_only_with_its_digest(content: bytes, digest: bytes) -> None:
    names = {"step-00000010.pt": content, "step-00000010.pt.sha256": digest}
    with fresh_folder() as folder, untouched(folder, names):
        found, refused = newest_good(folder)
    is_good = digest.split()[:1] == [hashlib.sha256(content).hexdigest().encode()]
    assert (found is not None) == is_good
    assert bool(refused) != is_good

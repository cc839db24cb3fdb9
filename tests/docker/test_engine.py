"""The engine client against a real engine."""

from __future__ import annotations

import asyncio
import time

import pytest

from remote.container import ContainerSpec
from remote.decode_errors import decode
from remote.engine import LABEL_CHECK, Engine
from remote.errors import EngineError
from remote.local import LocalRunner
from tests.docker.conftest import IMAGE

pytestmark = pytest.mark.rig


async def test_says_what_the_engine_and_an_image_are(engine: Engine) -> None:
    version, info = await asyncio.gather(engine.version(), engine.info())
    assert version["ApiVersion"] == engine.api_version
    assert info["Containers"] == 0
    image = await engine.image(IMAGE)
    assert image is not None
    assert image.operating_system == "linux"
    assert len(image.layers) == 1
    assert image.layers_digest.startswith("sha256:")
    assert image.size > 100_000
    assert image.env == ("PATH=/bin",)
    assert await engine.image("hetero-test/nothing:1") is None


async def test_a_missing_socket_says_what_to_do() -> None:
    with pytest.raises(EngineError) as raised:
        await Engine.open(LocalRunner("box"), "/nonexistent/docker.sock")
    assert raised.value.host == "box"
    assert "/nonexistent/docker.sock" in str(raised.value)
    assert raised.value.next_step


async def test_run_once_returns_both_streams_and_the_exit_code(engine: Engine) -> None:
    done = await engine.run_once(
        IMAGE,
        ["sh", "-c", "cat /hetero/check/input; echo $WORD; echo problem >&2; df -k /dev/shm; exit 7"],
        env={"WORD": "a b'c"},
        files={"/hetero/check/input": b"from a file\n"},
        shm_size=32 << 20,
    )
    assert done.exit_status == 7
    lines = done.stdout.splitlines()
    assert lines[:2] == ["from a file", "a b'c"]
    assert "32768" in done.stdout
    assert done.stderr == "problem\n"
    assert done.host == "box"
    assert await engine.list({LABEL_CHECK: "1"}) == ()


async def test_run_once_ends_at_its_deadline_and_leaves_nothing(engine: Engine) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"box: `sleep 100` in .* did not end within 1 s"):
        await engine.run_once(IMAGE, ["sleep", "100"], timeout=1.0)
    assert time.monotonic() - started < 8
    assert await engine.list({}) == ()


async def test_run_once_cancelled_leaves_nothing(engine: Engine) -> None:
    task = asyncio.create_task(engine.run_once(IMAGE, ["sleep", "100"]))
    async for event in engine.events({LABEL_CHECK: "1"}, since="1"):
        if event["Action"] == "start":
            break
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await engine.list({}) == ()


async def test_a_create_that_is_cancelled_is_still_waited_for(engine: Engine) -> None:
    """Otherwise the container would appear after whoever cleans up has looked."""
    task = asyncio.create_task(engine.create(ContainerSpec(image=IMAGE, argv=("true",), labels=(("t", "1"),))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await engine.list({"t": "1"})) == 1


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        (ContainerSpec(image="hetero-test/nothing:1", argv=("true",)), "is not on the host"),
        (
            ContainerSpec(image=IMAGE, argv=("true",), mounts=(("/nonexistent/data", "/data", True),)),
            "folder /nonexistent/data to mount is not on the host",
        ),
        (ContainerSpec(image=IMAGE, argv=("true",), gpu_uuids=("GPU-0",)), "the engine cannot hand out GPUs"),
    ],
)
async def test_refusals_name_the_cause(engine: Engine, spec: ContainerSpec, cause: str) -> None:
    with pytest.raises(EngineError) as raised:
        await engine.start(await engine.create(spec))
    assert cause in raised.value.message
    assert "the engine said:" in raised.value.message
    assert raised.value.next_step
    assert raised.value.host == "box"


async def test_a_command_that_is_not_in_the_image(engine: Engine) -> None:
    """The engine's init starts, so the engine sees no error; what the init says must be understood."""
    done = await engine.run_once(IMAGE, ["python3", "-m", "trainer"])
    assert done.exit_status == 127
    decoded = decode(done.stderr)
    assert decoded is not None
    assert decoded.cause == "there is no command python3"


async def test_a_name_that_is_taken(engine: Engine) -> None:
    spec = ContainerSpec(image=IMAGE, argv=("true",), name="taken")
    await engine.create(spec)
    with pytest.raises(EngineError, match="a container called taken is already there"):
        await engine.create(spec)


async def test_put_file_appears_complete_in_a_running_container(engine: Engine) -> None:
    """The reader polls as fast as it can and would see an empty or half file if the write were not atomic."""
    script = "until [ -f /hetero/control/go.json ]; do :; done; cat /hetero/control/go.json; ls -a /hetero/control"
    container = await engine.create(ContainerSpec(image=IMAGE, argv=("sh", "-c", script)))
    await engine.start(container)
    data = b"x" * 4_000_000 + b"\n"
    await engine.put_file(container, "/hetero/control/go.json", data)
    sizes = 0
    async with engine.logs(container) as batches:
        async for batch in batches:
            sizes += sum(payload.count(b"x") for _, payload in batch)
    assert sizes == 4_000_000


async def test_events_tell_of_the_end_of_a_container(engine: Engine) -> None:
    spec = ContainerSpec(image=IMAGE, argv=("sh", "-c", "exit 3"), labels=(("watched", "yes"),))
    container = await engine.create(spec)

    await engine.start(container)
    seen = []
    async with asyncio.timeout(20):
        async for event in engine.events({"watched": "yes"}, since="1"):
            seen.append(event["Action"])
            if event["Action"] == "die":
                assert event["Actor"]["Attributes"]["exitCode"] == "3"
                break
    assert seen == ["create", "start", "die"]


async def test_stop_is_quick_and_harmless_when_repeated(engine: Engine) -> None:
    spec = ContainerSpec(image=IMAGE, argv=("sleep", "1000"))
    container = await engine.create(spec)
    await engine.start(container)
    started = time.monotonic()
    await engine.stop(container, grace=10)
    assert time.monotonic() - started < 5
    for _ in range(2):
        await engine.remove(container)
        await engine.stop(container)
    assert await engine.inspect(container) is None

"""Ctrl-C while a host does not answer: the command says what goes on, and one that owes a document prints it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from hetero_tui.json_documents import validate


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("up --json", "interrupted before a run was started"),
        ("check --json", "nothing was changed on any host"),
        ("stop", "`hetero-tui stop` once more"),
    ],
)
async def test_an_interrupted_command_says_what_goes_on(command: str, said: str, tmp_path: Path) -> None:
    reached = asyncio.Event()
    done = asyncio.Event()

    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await done.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    (tmp_path / "cluster.toml").write_text(
        f'[cluster]\nname = "x"\n[training]\nworkload = "simple_cnn"\n[[hosts]]\nname = "mute"\n'
        f'address = "127.0.0.1"\nport = {port}\nruntime = "process"\n'
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hetero_tui", *command.split()),
        cwd=tmp_path,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        async with asyncio.timeout(60):
            await reached.wait()
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        done.set()
        server.close()
    assert process.returncode == 130
    assert said in err.decode()
    assert "Traceback" not in err.decode()
    if command.startswith("up"):
        document = json.loads(out)
        validate("up", document)
        assert document["state"] == "interrupted"
    else:
        assert out == b""

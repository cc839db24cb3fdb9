from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from remote.runner import ByteStream, Completed, StreamHandler


class ScriptedRunner:
    """A host that gives the same answer to every command."""

    def __init__(self, answer: Completed | Exception) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.inputs: list[bytes] = []

    @property
    def host(self) -> str:
        return "gpu-box"

    async def run(self, command: str, *, input: bytes = b"", timeout: float | None = 30.0) -> Completed:
        self.asked.append(command)
        self.inputs.append(input)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def stream(self, command: str) -> AsyncIterator[bytes]:
        raise NotImplementedError(command)

    async def put(self, data: bytes, path: str, *, mode: int = 0o600) -> None:
        raise NotImplementedError(path)

    async def get(self, path: str) -> bytes:
        raise NotImplementedError(path)

    async def open_unix(self, path: str) -> ByteStream:
        raise NotImplementedError(path)

    def forward_unix(self, path: str) -> AbstractAsyncContextManager[Path]:
        raise NotImplementedError(path)

    def serve_reverse(self, handler: StreamHandler, *, port: int = 0) -> AbstractAsyncContextManager[int]:
        raise NotImplementedError(port)

    async def close(self) -> None:
        return

"""A host's Docker Engine, through the host's one connection.

Short requests go through the Docker SDK on a forwarded socket, in threads of this engine only, so that a hanging host
holds up nobody else. Endless answers (logs, events) are read by ``remote.engine_http`` on a channel of their own.
Works with API 1.41 (engine 20.10) and later; the version is negotiated, never pinned.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import docker
import requests
from docker.errors import APIError, NotFound

from remote.answers import json_lines, understood
from remote.container import ContainerSpec, archive, container_config
from remote.engine_errors import engine_error, in_thread
from remote.engine_http import Answer, Demultiplexer, FramingError, request
from remote.engine_image import ImageInfo, image_info
from remote.engine_threads import RequestThreads
from remote.errors import ConnectionDropped, EngineError, RemoteError
from remote.plan_contract import LABEL_HOST
from remote.runner import SESSION_SOCKET, Completed, Runner

__all__ = ["DEFAULT_SOCKET", "LABEL_CHECK", "Engine", "ImageInfo", "LogFrames", "engine_error"]

DEFAULT_SOCKET: Final = "/var/run/docker.sock"
LABEL_CHECK: Final = "hetero-tui.check"
"""Marks the short-lived containers of checks; never part of a run."""
THREADS: Final = 4
MAX_RUN_ONCE_OUTPUT: Final = 16 << 20
FIRST_ANSWER_TIMEOUT: Final = 30.0
_T = TypeVar("_T")


@dataclass(slots=True)
class Engine:
    """One host's engine. Make it with ``open`` and end it with ``close``."""

    runner: Runner
    socket: str
    client: docker.APIClient
    _resources: AsyncExitStack
    _threads: RequestThreads
    _closed: bool = field(default=False)

    @property
    def host(self) -> str:
        """Name of the host in the inventory."""
        return self.runner.host

    @property
    def _sdk(self) -> Any:
        """The client without its types: some of its methods have none."""
        return self.client

    @property
    def api_version(self) -> str:
        """The API version that was negotiated."""
        return str(self.client.api_version)

    @classmethod
    async def open(cls, runner: Runner, socket: str = DEFAULT_SOCKET, *, timeout: float = 30.0) -> Engine:
        """Reach the engine of a host.

        Args:
            runner: connection to the host; stays the caller's.
            socket: absolute path of the engine's socket on the host.
            timeout: seconds for each short request.

        Raises:
            EngineError: no socket, no right to it, or the engine does not answer.
            ConnectionDropped: the connection to the host was lost.
        """
        resources = AsyncExitStack()
        threads = RequestThreads(f"engine-{runner.host}", THREADS)
        try:
            local = await resources.enter_async_context(runner.forward_unix(socket))
            client = await in_thread(
                threads,
                runner.host,
                f"engine at {socket}",
                lambda: docker.APIClient(base_url=f"unix://{local}", version="auto", timeout=math.ceil(timeout)),
            )
            resources.callback(client.close)
            if local.name == SESSION_SOCKET:
                # The SDK keeps a connection for every URL it has asked, and here each holds one of sshd's ten sessions.
                client.headers["Connection"] = "close"
            # Proxies and .netrc of this machine are none of the engine's business.
            client.trust_env = False
        except BaseException:
            await resources.aclose()
            raise
        return cls(runner, socket, client, resources, threads)

    async def close(self) -> None:
        """End the forwarding; containers run on. Harmless when already closed."""
        if not self._closed:
            self._closed = True
            await self._resources.aclose()

    async def version(self) -> Mapping[str, Any]:
        """Return the engine's answer to ``/version``."""
        return await self._ask("docker version", self.client.version)

    async def info(self) -> Mapping[str, Any]:
        """Return the engine's answer to ``/info``."""
        return await self._ask("docker info", self.client.info)

    async def image(self, ref: str) -> ImageInfo | None:
        """Return what the engine knows of an image, or ``None`` when the host does not have it."""
        try:
            found = await self._ask(f"docker image inspect {ref}", lambda: self._sdk.inspect_image(ref))
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        with understood(self.host, f"docker image inspect {ref}", EngineError):
            return image_info(ref, found)

    async def images(self) -> tuple[ImageInfo, ...]:
        """Return every image of the host that has a name; one of several names stands for all of them."""
        found = await self._ask("docker images", self.client.images)
        with understood(self.host, "docker images", EngineError):
            refs = [str((each.get("RepoTags") or each.get("RepoDigests") or [each["Id"]])[0]) for each in found]
            named = [ref if "<none>" not in ref else str(each["Id"]) for ref, each in zip(refs, found, strict=True)]
        known = [await self.image(ref) for ref in named]
        return tuple(image for image in known if image is not None)

    async def image_names(self) -> tuple[tuple[str, str, int], ...]:
        """Return (name with tag, image id, bytes on disk) of every tagged image."""
        found = await self._ask("docker images", self.client.images)
        with understood(self.host, "docker images", EngineError):
            return tuple(
                (str(name), str(each["Id"]), int(each.get("Size") or 0))
                for each in found
                for name in each.get("RepoTags") or ()
                if name != "<none>:<none>"
            )

    async def layer_sizes(self, ref: str) -> tuple[int, ...]:
        """Return the unpacked bytes of what each build step of an image added, the oldest first.

        Raises:
            EngineError: there is no such image.
        """
        found = await self._ask(f"docker history {ref}", lambda: self._sdk.history(ref))
        with understood(self.host, f"docker history {ref}", EngineError):
            return tuple(int(step.get("Size") or 0) for step in reversed(found))

    async def tag_image(self, image: str, repository: str, tag: str) -> None:
        """Give an image another name; an image that had this name loses it.

        Raises:
            EngineError: there is no such image.
        """
        await self._change(f"docker tag {image} {repository}:{tag}", lambda: self._sdk.tag(image, repository, tag))

    async def is_image_used(self, image: str) -> bool:
        """Whether any container, running or not, was made from an image or one that is built on it."""
        wanted = {"ancestor": [image]}
        return bool(
            await self._ask(f"docker ps -a of {image}", lambda: self.client.containers(all=True, filters=wanted))
        )

    async def remove_image(self, ref: str) -> bool:
        """Take a name from an image, and remove the image when it was its last and no container uses it.

        Returns:
            False when it was kept because a container uses it. True also when there was none.

        Raises:
            EngineError: the engine refused for another reason.
        """
        try:
            await self._change(f"docker rmi {ref}", lambda: self._sdk.remove_image(ref))
        except EngineError as error:
            cause = error.__cause__
            if isinstance(cause, NotFound):
                return True
            if isinstance(cause, APIError) and cause.status_code == 409:
                return False
            raise
        return True

    async def create(self, spec: ContainerSpec) -> str:
        """Create a container; nothing runs yet. Returns its id.

        Raises:
            EngineError: no such image, the name is taken, a folder to mount is missing, …
        """
        config = container_config(spec, self.api_version)
        created = await self._change(
            f"docker create {spec.image}",
            lambda: self._sdk.create_container_from_config(config, spec.name or None),
        )
        with understood(self.host, f"docker create {spec.image}", EngineError):
            return str(created["Id"])

    async def start(self, container: str) -> None:
        """Start a created container.

        Raises:
            EngineError: no GPU runtime, no such command, a limit that may not be raised, …
        """
        await self._change(f"docker start {container[:64]}", lambda: self.client.start(container))

    async def inspect(self, container: str) -> Mapping[str, Any] | None:
        """Return the engine's full record of a container, or ``None`` when there is none of that id or name."""
        try:
            found: Mapping[str, Any] = await self._ask(
                f"docker inspect {container[:64]}", lambda: self.client.inspect_container(container)
            )
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        return found

    async def list(self, labels: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
        """Return the engine's short record of every container, running or not, that carries all these labels."""
        wanted = {"label": [f"{name}={value}" for name, value in labels.items()]}
        found = await self._ask("docker ps -a", lambda: self.client.containers(all=True, filters=wanted))
        with understood(self.host, "docker ps -a", EngineError):
            return tuple(dict(each) for each in found)

    async def put_file(self, container: str, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file into a container, running or not. It appears all at once; its folders are made with mode 755.

        Raises:
            EngineError: no such container, a read-only file system, no space.
        """
        packed = archive(path, data, mode)
        await self._change(f"write {path} in {container[:64]}", lambda: self.client.put_archive(container, "/", packed))

    async def stop(self, container: str, *, grace: float = 10.0) -> None:
        """Send SIGTERM, wait up to ``grace`` seconds, then SIGKILL. Harmless when it has ended or is gone."""
        await self._change_unless_gone(
            f"docker stop {container[:64]}", lambda: self.client.stop(container, timeout=math.ceil(grace))
        )

    async def remove(self, container: str) -> None:
        """Remove a container with its log and anonymous volumes, killing it if needed. Harmless when it is gone."""
        await self._change_unless_gone(
            f"docker rm -f {container[:64]}", lambda: self.client.remove_container(container, v=True, force=True)
        )

    @asynccontextmanager
    async def logs(self, container: str, *, since: str = "", follow: bool = True) -> AsyncIterator[LogFrames]:
        """Open a container's log, with the engine's time stamps, from the beginning or from ``since`` on.

        Args:
            container: id or name.
            since: seconds since the epoch with nanoseconds, ``1795405395.918562356``.
            follow: go on until the container ends.

        Raises:
            EngineError: no such container, or its log cannot be read.
            ConnectionDropped: also while iterating.
        """
        parameters = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
        if since:
            parameters["since"] = since
        async with self._get(f"/containers/{quote(container, safe='')}/logs", parameters) as answer:
            yield _frames(answer, self.host)

    async def events(self, labels: Mapping[str, str], *, since: str = "") -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the engine's container events (start, die, oom, …) of containers with these labels as they happen.

        Args:
            labels: all of them must match.
            since: seconds since the epoch; events the engine still remembers from then on come first.

        Raises:
            EngineError: the engine refused.
            CommandFailed: what came is no event.
            ConnectionDropped: the connection was lost.
        """
        filters = {"type": ["container"], "label": [f"{name}={value}" for name, value in labels.items()]}
        parameters = {"filters": json.dumps(filters)} | ({"since": since} if since else {})
        async with self._get("/events", parameters) as answer:
            async for event in json_lines(self.host, "docker events", answer.body):
                if isinstance(event, dict):
                    yield event

    async def run_once(
        self,
        image: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        gpu_uuids: Sequence[str] = (),
        network_mode: str = "host",
        mounts: Sequence[tuple[str, str, str]] = (),
        shm_size: int = 1 << 30,
        user: str = "",
        labels: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Completed:
        """Run a command in a new container with the flags a job gets, and remove the container whatever happens.

        Args:
            image: image on the host; it is never pulled.
            argv: command line; the image's entrypoint is not used.
            env: environment variables.
            files: path in the container → content, written before the start. Their folders get mode 755, so use
                folders of your own, such as ``/hetero/check``.
            gpu_uuids: GPUs to hand in.
            network_mode: as in the job.
            mounts: (path on the host, path in the container, ``ro`` or ``rw``).
            shm_size: bytes of /dev/shm.
            user: user in the container.
            labels: labels besides the one that marks a check.
            timeout: seconds from creation to the end.

        Raises:
            EngineError: it could not be created or started.
            TimeoutError: it did not end in time.
            ConnectionDropped: the connection was lost.
        """
        spec = ContainerSpec(
            image=image,
            argv=tuple(argv),
            name=f"hetero-tui-check-{secrets.token_hex(6)}",
            env=tuple(sorted((env or {}).items())),
            labels=tuple(sorted({LABEL_CHECK: "1", LABEL_HOST: self.host, **(labels or {})}.items())),
            gpu_uuids=tuple(gpu_uuids),
            shm_size=shm_size,
            mounts=tuple((source, target, mode == "ro") for source, target, mode in mounts),
            network_mode=network_mode,
            user=user,
        )
        shown = shlex.join(argv)
        try:
            async with asyncio.timeout(timeout) as deadline:
                completed = await self._run_to_end(spec, files or {}, shown)
        except BaseException as error:
            # What went wrong first is what the caller must hear; a container that stays is found by its label.
            with suppress(RemoteError):
                await self.remove(spec.name)
            if isinstance(error, TimeoutError) and deadline.expired():
                message = f"{self.host}: `{shown[:200]}` in {image} did not end within {timeout:g} s"
                raise TimeoutError(message) from error
            raise
        await self.remove(spec.name)
        return completed

    async def _run_to_end(self, spec: ContainerSpec, files: Mapping[str, bytes], shown: str) -> Completed:
        container = await self.create(spec)
        for path, data in files.items():
            await self.put_file(container, path, data)
        await self.start(container)
        output = {1: bytearray(), 2: bytearray()}
        async with self.logs(container) as frames:
            async for batch in frames:
                for stream, payload in batch:
                    kept = output[2 if stream >= 2 else 1]
                    kept += payload[payload.find(b" ") + 1 :]
                    if len(kept) > MAX_RUN_ONCE_OUTPUT:
                        raise EngineError(
                            f"`{shown[:200]}` wrote more than {MAX_RUN_ONCE_OUTPUT} bytes", host=self.host
                        )
        state = await self._ask(f"docker wait {container[:12]}", lambda: self.client.wait(container))
        stdout, stderr = output[1].decode(errors="replace"), output[2].decode(errors="replace")
        with understood(self.host, "docker wait", EngineError):
            return Completed(self.host, shown, int(state["StatusCode"]), stdout, stderr)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[Answer]:
        """Make one request on a connection of its own and stream its answer; leaving cancels what still runs.

        Args:
            method: ``GET``, ``POST``.
            path: path in the engine's API, without the version.
            parameters: query.
            headers: besides those every request has.
            body: sent while the answer is read.

        Raises:
            EngineError: the engine refused.
            ConnectionDropped: the connection was lost.
        """
        target = f"/v{self.api_version}{path}?{urlencode(parameters)}"
        stream = await self.runner.open_unix(self.socket)
        try:
            answer = await request(stream, method, target, self.host, headers=headers, body=body)
            if answer.status >= 400:
                raise engine_error(self.host, f"{method} {path}", await answer.error_message())
            yield answer
        finally:
            await stream.close()

    def _get(self, path: str, parameters: Mapping[str, str]) -> AbstractAsyncContextManager[Answer]:
        return self.request("GET", path, parameters)

    async def _ask(self, what: str, request: Callable[[], _T]) -> _T:
        """Make a request that changes nothing; a connection the engine had closed while idle is opened anew."""
        try:
            return await self._request(what, request)
        except EngineError as error:
            if not isinstance(error.__cause__, requests.exceptions.ConnectionError):
                raise
        return await self._request(what, request)

    async def _change(self, what: str, request: Callable[[], _T]) -> _T:
        """Make a request that changes something, and wait for the answer even when cancelled.

        A thread cannot be called back, and whoever cleans up afterwards must find everything that was made.
        """
        task = asyncio.ensure_future(self._request(what, request))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # looked at, or asyncio complains; the cancellation is what the caller gets
            raise

    async def _request(self, what: str, request: Callable[[], _T]) -> _T:
        """Make a request in a thread; without the host's connection the engine is not to blame.

        Raises:
            ConnectionDropped: the host's connection is lost.
            EngineError: the engine refused or did not answer.
        """
        self._require_connection(what)
        try:
            return await in_thread(self._threads, self.host, what, request)
        except EngineError:
            self._require_connection(what)
            raise

    def _require_connection(self, what: str) -> None:
        if not getattr(self.runner, "is_connected", True):
            raise ConnectionDropped(f"the connection was lost, so `{what}` got no answer", host=self.host)

    async def _change_unless_gone(self, what: str, request: Callable[[], object]) -> None:
        try:
            await self._change(what, request)
        except EngineError as error:
            cause = error.__cause__
            if isinstance(cause, NotFound):
                return
            if isinstance(cause, APIError) and cause.status_code == 409 and "already in progress" in str(cause):
                return
            raise


LogFrames = AsyncIterator[list[tuple[int, bytes]]]
"""Batches of (stream number, payload) as ``remote.docker_logs`` takes them."""


async def _frames(answer: Answer, host: str) -> LogFrames:
    demultiplexer = Demultiplexer()
    try:
        async for chunk in answer.body:
            if frames := demultiplexer.feed(chunk):
                yield frames
    except FramingError as error:
        raise EngineError(f"the engine's log stream cannot be read: {error}", host=host) from error
    if demultiplexer.unfinished:
        raise ConnectionDropped("the engine's log stream ended in the middle of a message", host=host)

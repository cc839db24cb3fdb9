"""An engine's pull: started so that it outlives the SSH connection, and what it said at the end.

An engine cancels a pull, and drops what it has of the unfinished layers, when the client that asked for it goes away.
So on a host behind SSH the client is a command in a session of its own (``curl`` or ``python3``, whichever is there):
when the connection is lost the engine goes on asking the registry, finds it again once the connection is back, and
continues each layer where it stopped. The command ends with the pull and takes its files along.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from remote.answers import json_lines
from remote.engine import Engine, engine_error
from remote.errors import CommandFailed, EngineError
from remote.runner import Runner

# $1 socket, $2 request target, $3 folder for what it says. `timeout` ends it when the engine never answers.
_START: Final = r"""
set -eu
umask 077
case "$3" in /tmp/hetero-tui-pull-*) ;; *) exit 64 ;; esac
mkdir "$3"
if command -v curl >/dev/null 2>&1; then
    set -- "$3" curl -sS -X POST --unix-socket "$1" -o "$3/said" "http://docker$2"
elif command -v python3 >/dev/null 2>&1; then
    set -- "$3" python3 -c 'import http.client, socket, sys
c = http.client.HTTPConnection("docker"); c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])
c.request("POST", sys.argv[2]); r = c.getresponse()
with open(sys.argv[3], "wb", 0) as f:
    while b := r.read1(65536): f.write(b)' "$1" "$2" "$3/said"
else
    rmdir "$3"; echo none; exit 0
fi
command -v setsid >/dev/null 2>&1 || { rmdir "$1"; echo none; exit 0; }
setsid sh -c '
f="$1"; shift
echo $$ >"$f/pid"
"$@" 2>"$f/error" </dev/null >/dev/null
echo $? >"$f/status"
n=0; while [ -d "$f" ] && [ $n -lt 120 ]; do sleep 1; n=$((n+1)); done
rm -rf "$f"' sh "$@" >/dev/null 2>&1 </dev/null &
echo started
"""
_WAIT: Final = r"""
while [ -d "$1" ] && [ ! -s "$1/status" ]; do sleep 0.1; done
[ -d "$1" ] || exit 3
printf '%s\n' "$(cat "$1/status")"; tail -c 20000 "$1/error"; echo; echo @@said; tail -c 100000 "$1/said" 2>/dev/null
kill -s KILL -- "-$(cat "$1/pid")" 2>/dev/null
rm -rf "$1"
"""
_STOP: Final = r"""
case "$1" in /tmp/hetero-tui-pull-*) ;; *) exit 64 ;; esac
[ ! -s "$1/pid" ] || kill -s TERM -- "-$(cat "$1/pid")" 2>/dev/null
rm -rf "$1"
"""


def _script(script: str, *arguments: str) -> tuple[str, bytes]:
    """Return the command line and standard input that run a script with arguments."""
    return "exec /bin/sh -s -- " + " ".join(map(shlex.quote, arguments)), script.encode()


@dataclass(slots=True)
class DetachedPull:
    """One pull on one host that lives on without this program's connection."""

    engine_socket: str
    target: str
    """Path and query in the engine's API."""
    folder: str = field(default_factory=lambda: f"/tmp/hetero-tui-pull-{secrets.token_hex(12)}")  # noqa: S108

    async def start(self, runner: Runner) -> bool:
        """Start it. Returns False where the host has nothing to start it with.

        Raises:
            CommandFailed: the host refused.
            ConnectionDropped: the connection was lost.
        """
        command, script = _script(_START, self.engine_socket, self.target, self.folder)
        return (await runner.run(command, input=script)).check().stdout.strip() == "started"

    async def wait(self, runner: Runner) -> None:
        """Wait for its end; after a lost connection, wait again over the next one.

        Raises:
            EngineError: the engine could not pull, and what it said.
            ConnectionDropped: the connection was lost, the pull goes on.
        """
        command, script = _script(_WAIT, self.folder)
        done = await runner.run(command, input=script, timeout=None)
        if done.exit_status == 3:
            raise EngineError("the pull ended unseen: its files are gone", host=runner.host, next_step="try again")
        done.check()
        status, _, rest = done.stdout.partition("\n")
        error, _, said = rest.partition("@@said\n")
        check_messages(runner.host, (line for line in said.splitlines() if line.strip()))
        if status.strip() != "0":
            raise CommandFailed(f"the pull's client ended with {status}: {error.strip()[-400:]}", host=runner.host)

    async def stop(self, runner: Runner) -> None:
        """End it: the engine drops what is unfinished."""
        command, script = _script(_STOP, self.folder)
        await runner.run(command, input=script, timeout=10.0)


def pull_target(api_version: str, image: str) -> str:
    """Return path and query of the pull of ``repository@digest``."""
    return f"/v{api_version}/images/create?{urlencode({'fromImage': image})}"


def check_messages(host: str, lines: Iterable[str | bytes]) -> None:
    """Look for an error in the engine's messages; it answers 200 before it knows.

    Raises:
        EngineError: there is one.
    """
    for line in lines:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the first line of what was kept may have lost its beginning
        check_message(host, message)


def check_message(host: str, message: object) -> None:
    """Raise what a message of the engine complains about.

    Raises:
        EngineError: it is an error.
    """
    if not isinstance(message, dict):
        return
    detail = message.get("errorDetail")
    text = message.get("error") or (detail.get("message") if isinstance(detail, dict) else None)
    if text is None and set(message) == {"message"}:
        text = message["message"]
    if text:
        raise engine_error(host, "docker pull", str(text)[:1000])


async def messages(host: str, body: AsyncIterator[bytes]) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the JSON messages of an engine's answer as they come.

    Raises:
        CommandFailed: what came is no JSON.
        ConnectionDropped: it broke off in a message.
    """
    async for message in json_lines(host, "what it is doing", body):
        if isinstance(message, dict):
            yield message


async def pull_attached(engine: Engine, image: str) -> None:
    """Pull on a connection of this program: it ends when that is lost.

    Raises:
        EngineError: the engine could not pull.
        ConnectionDropped: the connection was lost, and the pull with it.
    """
    async with engine.request("POST", "/images/create", {"fromImage": image}) as answer:
        async for message in messages(engine.host, answer.body):
            check_message(engine.host, message)

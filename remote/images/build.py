"""Building an image on one host from a context on this machine, by that host's engine."""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from remote.engine import Engine
from remote.errors import ImageError
from remote.images.build_context import Context
from remote.images.engine_pull import messages
from remote.images.send import put_name

LABEL_CONTEXT: Final = "hetero-tui.context"
"""Carries the digest of context and arguments, by which an image is known to be up to date."""
LAST_LINES: Final = 15
MAX_LINE: Final = 500
_STEP: Final = re.compile(r"Step \d+/\d+ : ")

Say = Callable[[str], None]


async def build_image(
    engine: Engine, ref: str, context: Context, arguments: Mapping[str, str], label: str, say: Say
) -> None:
    """Build, name the image, and note that it came from here. The log goes to ``say`` line by line.

    Args:
        engine: where it is built.
        ref: its name.
        context: files and Dockerfile.
        arguments: build arguments; no secrets, the image's history shows them.
        label: what identifies this build.
        say: takes each line.

    Raises:
        ImageError: a step failed; the message has its last lines.
        EngineError: the engine refused.
        ConnectionDropped: the connection was lost, and with it the build.
    """
    parameters = {
        "t": ref,
        "dockerfile": context.dockerfile,
        "buildargs": json.dumps(dict(arguments)),
        "labels": json.dumps({LABEL_CONTEXT: label}),
        "networkmode": "host",
        "forcerm": "1",
        "rm": "1",
    }
    last: deque[str] = deque(maxlen=LAST_LINES)
    step = ""
    headers = [("Content-Type", "application/x-tar")]
    async with engine.request("POST", "/build", parameters, headers=headers, body=_body(context)) as answer:
        async for message in messages(engine.host, answer.body):
            for line in str(message.get("stream") or message.get("status") or "").splitlines():
                if not line.strip():
                    continue
                step = line if _STEP.match(line) else step
                last.append(line[:MAX_LINE])
                say(line[:MAX_LINE])
            if error := message.get("error"):
                raise _failed(engine.host, ref, step, str(error), last)
    await put_name(engine, ref, ref)


async def _body(context: Context) -> AsyncIterator[bytes]:
    for piece in context.chunks():
        yield piece


def _failed(host: str, ref: str, step: str, error: str, last: deque[str]) -> ImageError:
    shown = "\n".join(f"    {line}" for line in last)
    hint = "mend the Dockerfile or what it fetches, then try again"
    if "requires BuildKit" in error or "--mount option" in error:
        hint = "this Dockerfile needs BuildKit: build it with docker buildx build on one machine and let it be sent"
    if "no matching manifest" in error or "exec format error" in error:
        hint = "its base image is not for this processor: take one that is, with build_args under [image]"
    return ImageError(f"building {ref} failed at {step or 'the start'}: {error}\n{shown}", host=host, next_step=hint)


def build_label(context: Context, arguments: Mapping[str, str]) -> str:
    """Return what identifies a build: the context, which Dockerfile, and the arguments."""
    parts = json.dumps([context.digest, context.dockerfile, sorted(arguments.items())])
    return f"sha256:{hashlib.sha256(parts.encode()).hexdigest()}"

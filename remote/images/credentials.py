"""Who this person is to a registry, from the credential store of this machine. Never from ``cluster.toml``.

The rules are those of the docker client (https://docs.docker.com/reference/cli/docker/login/, "Credential stores"):
``credHelpers`` of the registry, then ``credsStore``, then ``auths`` in ``~/.docker/config.json``. What is found goes to
the host's engine in the header of the one request that needs it and is never stored there.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from remote.errors import ImageError
from remote.images.reference import DOCKER_HUB
from trainer.errors import UNFIT

HUB_KEY: Final = "https://index.docker.io/v1/"
HELPER_SECONDS: Final = 20.0
_HELPER_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def config_file() -> Path:
    """Return the docker client's configuration file."""
    folder = os.environ.get("DOCKER_CONFIG", "")
    return (Path(folder) if folder else Path.home() / ".docker") / "config.json"


async def registry_auth(registry: str, path: Path | None = None) -> str:
    """Return the value of ``X-Registry-Auth`` for a registry, or an empty string when nothing is known of it.

    Raises:
        ImageError: the configuration is broken or its credential helper failed.
    """
    path = path or config_file()
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(f"cannot read {path}: {error}", next_step="mend it, or run docker login again") from error
    if not isinstance(config, dict) or not all(
        isinstance(config.get(key) or {}, dict) for key in ("credHelpers", "auths")
    ):
        raise ImageError(
            f"{path} holds no JSON object that docker login writes", next_step="mend it, or run docker login again"
        )
    key = HUB_KEY if registry == DOCKER_HUB else registry
    helper = (config.get("credHelpers") or {}).get(registry) or config.get("credsStore")
    found = await _from_helper(str(helper), key) if helper else {}
    found = found or _from_file(config.get("auths") or {}, registry, key)
    if not found:
        return ""
    return base64.urlsafe_b64encode(json.dumps(found | {"serveraddress": key}).encode()).decode()


async def _from_helper(helper: str, key: str) -> dict[str, str]:
    """Ask ``docker-credential-HELPER get`` (protocol: https://github.com/docker/docker-credential-helpers)."""
    if not _HELPER_NAME.fullmatch(helper):
        raise ImageError(f"{helper[:80]!r} cannot be the name of a credential helper", next_step=f"see {config_file()}")
    program = f"docker-credential-{helper}"
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise ImageError(
            f"{program} cannot be run: {error.strerror}", next_step=f"install it, or take it out of {config_file()}"
        ) from error
    try:
        async with asyncio.timeout(HELPER_SECONDS):
            said, _ = await process.communicate(key.encode())
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise ImageError(
            f"{program} did not answer in {HELPER_SECONDS:g} s", next_step="unlock it and retry"
        ) from error
    if process.returncode != 0:
        if b"credentials not found" in said:
            return {}
        told = said.decode(errors="replace").strip()[:200]
        raise ImageError(f"{program} failed: {told}", next_step="unlock it, or run docker login again")
    try:
        answer = json.loads(said)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except UNFIT as error:
        raise ImageError(f"{program} gave an answer of an unknown form", next_step="update it") from error
    return {"identitytoken": secret} if user == "<token>" else {"username": user, "password": secret}


def _from_file(auths: Mapping[str, Any], registry: str, key: str) -> dict[str, str]:
    for name, entry in auths.items():
        if name != key and name.removeprefix("https://").removeprefix("http://").rstrip("/") != registry:
            continue
        if not isinstance(entry, dict):
            continue
        if token := entry.get("identitytoken"):
            return {"identitytoken": str(token)}
        try:
            user, colon, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
        except ValueError:  # no Base64, or no text in it
            continue
        if colon:
            return {"username": user, "password": password.rstrip("\0")}
    return {}

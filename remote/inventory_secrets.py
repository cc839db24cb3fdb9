"""Secrets have no place in ``cluster.toml``: it is copied, committed and shown. Found ones are named, never echoed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from remote.inventory_lines import KeyPath

WHERE_SECRETS_BELONG: Final = (
    "looks like a secret; cluster.toml is no place for one (it is copied and shown). "
    "SSH keys belong in your agent (ssh-add), registry logins in `docker login` on this machine, "
    "and what the job reads at run time in a file on the hosts"
)

_SECRET_WORDS: Final = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "apikey", "credential", "credentials"}
)
_SECRET_PAIRS: Final = frozenset(
    {
        ("api", "key"),
        ("access", "key"),
        ("private", "key"),
        ("secret", "key"),
        ("auth", "key"),
        ("encryption", "key"),
        ("account", "key"),
    }
)
_HARMLESS_AWS: Final = frozenset(
    {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"}
)
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_SECRET_TEXT: Final = re.compile(
    r"""
    -----BEGIN\ (?:[A-Z0-9]+\ )*PRIVATE\ KEY(?:\ BLOCK)?-----
    | \b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}   # GitHub
    | \bgithub_pat_[A-Za-z0-9_]{20,}
    | \bglpat-[A-Za-z0-9_-]{16,}                    # GitLab
    | \bdckr_pat_[A-Za-z0-9_-]{16,}                 # Docker Hub
    | \bhf_[A-Za-z0-9]{20,}                         # Hugging Face
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b                 # AWS access key id
    | \bxox[abprs]-[A-Za-z0-9-]{10,}                # Slack
    | \bsk-[A-Za-z0-9_-]{20,}
    | \bAIza[0-9A-Za-z_-]{30,}                      # Google
    | (?<=://)[^/\s:@"']+:[^/\s@"']+(?=@)           # user:password in a URL
    """,
    re.VERBOSE,
)


def is_secret_name(name: str) -> bool:
    """Whether a key, variable or option of this name holds a secret (``HF_TOKEN``, ``apiKey``, ``--password``)."""
    if name.startswith("AWS_"):
        return name not in _HARMLESS_AWS
    words = [word.lower() for word in _WORD.findall(name)]
    return not _SECRET_WORDS.isdisjoint(words) or any(pair in _SECRET_PAIRS for pair in pairwise(words))


def without_secrets(text: str) -> str:
    """Return ``text`` with everything that has the form of a known secret left out."""
    return _SECRET_TEXT.sub("<secret>", text)


def secret_lines(text: str) -> list[int]:
    """Return the lines (from 1) of the text, comments included, that hold something of the form of a secret."""
    return [number for number, line in enumerate(text.split("\n"), 1) if _SECRET_TEXT.search(line)]


def secret_keys(data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every key that is named like a secret, and of every option in ``args`` that is."""
    if isinstance(data, dict):
        for key, value in data.items():
            if is_secret_name(key):
                yield (*path, key)
            else:
                yield from secret_keys(value, (*path, key))
    elif isinstance(data, list):
        for position, value in enumerate(data):
            if isinstance(value, str) and value.startswith("-") and is_secret_name(value.partition("=")[0]):
                yield (*path, position)
            else:
                yield from secret_keys(value, (*path, position))

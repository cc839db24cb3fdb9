"""What the validation found, in the words of a person who wrote TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from remote.inventory_lines import KeyPath
from remote.inventory_mistakes import Mistake, kind_of, nearest, shown, value_at
from remote.inventory_model import Cluster, Host, Image, Inventory, Limits, Model, Network, Training

_TABLES: Final[Mapping[str, type[Model]]] = {
    "": Inventory,
    "cluster": Cluster,
    "image": Image,
    "training": Training,
    "network": Network,
    "limits": Limits,
    "hosts": Host,
}
_SYNONYMS: Final[Mapping[str, str]] = {
    # Words of other tools; where one stands for several keys, the first that is known at the place is meant.
    "host": "hosts",
    "node": "hosts",
    "nodes": "hosts",
    "workers": "hosts",
    "machines": "hosts",
    "master_addr": "master_address",
    "master_port": "port",
    "ip": "address",
    "hostname": "address",
    "username": "user",
    "login": "user",
    "key": "identity_file",
    "key_file": "identity_file",
    "ssh_key": "identity_file",
    "proxy_jump": "jump_host",
    "proxyjump": "jump_host",
    "fingerprint": "host_key",
    "gpu": "devices cuda",
    "gpus": "devices",
    "device": "devices",
    "model": "workload",
    "data": "dataset",
    "entrypoint": "script",
    "arguments": "args",
    "batch": "global_batch",
    "batch_size": "global_batch",
    "lr": "learning_rate",
    "num_epochs": "epochs",
    "num_samples": "samples",
    "load_balance_policy": "policy",
    "compression": "communication",
    "iface": "interface",
    "nic": "interface",
    "ports": "port_range",
    "tag": "ref",
    "name": "ref",
    "container": "docker",
    "venv": "process",
    "native": "process",
    "gpt2": "gpt_small",
    "gpt": "gpt_small",
    "bert": "bert_small",
    "synthetic_image": "synthetic_images",
    "none": "equal",
    "adaptive": "dynamic",
    "pull": "registry",
    "load": "send",
    "save": "send",
    "gpu_image": "cuda",
    "rocm": "cuda",
}
_COMPUTED: Final = frozenset({"rank", "ranks", "world_size", "local_rank", "node_rank", "local_world_size"})
_EXPECTED: Final[Mapping[str, str]] = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list in [ ]",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_COMPARISONS: Final[Mapping[str, tuple[str, str]]] = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def explain(error: ValidationError, data: Mapping[str, Any]) -> list[Mistake]:
    """Return one mistake for every error, with paths into ``data``."""
    return [
        _mistake(each, data)
        for each in error.errors(include_url=False)
        # A list is "too short" also when all its items are wrong; those are told one by one.
        if not (each["type"] == "too_short" and value_at(data, each["loc"]))
    ]


def _mistake(error: ErrorDetails, data: Mapping[str, Any]) -> Mistake:
    path: KeyPath = error["loc"]
    value = value_at(data, path)
    context: Mapping[str, Any] = error.get("ctx", {})
    if path and path[-1] == "[key]":
        return _unknown_key(path[:-1], _quoted_words(str(context.get("expected", ""))))
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(path, tuple(_table(path).model_fields))
        case "missing":
            return _missing(path)
        case "literal_error":
            return Mistake(path, _wrong_word(value, _quoted_words(str(context.get("expected", "")))))
        case "string_pattern_mismatch":
            allowed = 'letters, digits, ".", "_" and "-", beginning with a letter or digit, at most 63'
            return Mistake(path, f"{shown(value)} cannot be a name; use {allowed}")
        case "too_short":
            return Mistake(path, "needs at least one")
        case "finite_number":
            return Mistake(path, f"{shown(value)} is not a usable number")
        case "value_error":
            return Mistake(path, f"{shown(value)}: {context.get('error', 'wrong')}")
        case "tuple_type" if path == ("hosts",) and isinstance(value, dict):
            return Mistake(path, "every host is one item of a list: write [[hosts]] with double brackets")
        case "model_type" | "model_attributes_type" if len(path) == 1 and isinstance(value, list):
            return Mistake(path, f"there is only one: write [{path[0]}] with single brackets")
        case kind if kind in _EXPECTED:
            return Mistake(path, _wrong_kind(value, _EXPECTED[kind]))
        case kind if kind in _COMPARISONS:
            key, words = _COMPARISONS[kind]
            return Mistake(path, f"{shown(value)} is out of range; it must be {words} {context.get(key)}")
        case _:
            return Mistake(path, error["msg"])


def _table(path: KeyPath) -> type[Model]:
    return _TABLES[str(path[0]) if len(path) > 1 else ""]


def _unknown_key(path: KeyPath, options: tuple[str, ...]) -> Mistake:
    key = str(path[-1])
    if key.lower() in _COMPUTED:
        return Mistake(path, "unknown key; ranks and world size are computed, leave it out")
    if near := nearest(key, options, _SYNONYMS):
        return Mistake(path, f"unknown key; did you mean {near}?")
    elsewhere = [
        f"[[{name}]]" if name == "hosts" else f"[{name}]"
        for name, model in _TABLES.items()
        if name and key in model.model_fields
    ]
    if elsewhere:
        return Mistake(path, f"unknown key here; it belongs in {' or '.join(elsewhere)}")
    return Mistake(path, f"unknown key; known here: {', '.join(options)}")


def _missing(path: KeyPath) -> Mistake:
    match path:
        case ("cluster",):
            return Mistake(path, 'the file needs [cluster] with name = "…"')
        case ("hosts",):
            return Mistake(path, 'the file needs at least one [[hosts]] with name = "…"')
        case _:
            return Mistake(path, "is missing")


def _wrong_word(value: object, options: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        return f"expected one of {', '.join(options)}, found {kind_of(value)}"
    near = nearest(value, options, _SYNONYMS)
    hint = f"did you mean {near}? " if near else ""
    return f"unknown value {shown(value)}; {hint}(valid: {', '.join(options)})"


def _wrong_kind(value: object, expected: str) -> str:
    if expected == "text in quotes" and isinstance(value, (int, float)):
        return f'expected text in quotes: "{shown(value)}"'
    found = shown(value) if isinstance(value, (str, int, float)) else kind_of(value)
    return f"expected {expected}, found {found}"


def _quoted_words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"'([^']*)'", text))

"""The JSON schema of ``cluster.toml``, for completion and checking in editors (taplo reads ``#:schema``)."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from remote import inventory_model
from remote.inventory_model import Inventory


def json_schema() -> str:
    """Return the schema as JSON text; every key carries its help text as ``description``."""
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= Inventory.model_json_schema()
    tables = {**schema["$defs"], "Inventory": schema}
    for table, key, text in _key_docstrings():
        _describe(tables[table]["properties"], key, text)
    schema["title"] = "cluster.toml of hetero-tui"
    return json.dumps(schema, indent=2, ensure_ascii=False)


def _key_docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield class, key and the docstring under the key, for every key of the model."""
    for each in ast.parse(inspect.getsource(inventory_model)).body:
        if not isinstance(each, ast.ClassDef):
            continue
        for statement, below in pairwise(each.body):
            match statement, below:
                case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                    yield each.name, key, inspect.cleandoc(text)


def _describe(properties: dict[str, Mapping[str, Any]], key: str, text: str) -> None:
    properties[key] = dict(sorted({**properties[key], "description": text}.items()))

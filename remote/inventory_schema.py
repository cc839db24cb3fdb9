"""The JSON schema of ``cluster.toml``, for completion and checking in editors (taplo reads ``#:schema``)."""

from __future__ import annotations

import json
from typing import Any

from remote.inventory_model import Inventory


def json_schema() -> str:
    """Return the schema as JSON text; every key carries its help text as ``description``."""
    schema: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= Inventory.model_json_schema()
    schema["title"] = "cluster.toml of hetero-tui"
    return json.dumps(schema, indent=2, ensure_ascii=False)

"""The files in ``configs/`` load, say what they promise, and the schema beside them is the current one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli

from remote.facts import Facts, Gpu
from remote.inventory import Host, Inventory, json_schema, load_inventory
from remote.plan import make_plan

CONFIGS = Path(__file__).parent.parent.parent / "configs"
FILES = sorted(CONFIGS.glob("*.toml"))
SCHEMA: dict[str, Any] = json.loads(json_schema())


def _facts(inventory: Inventory) -> dict[str, Facts]:
    """Return facts of hosts that are what the file's comments say they are."""
    interface = {
        host.name: host.interface or inventory.network.interface.replace("auto", "") for host in inventory.hosts
    }
    return {
        host.name: Facts(
            host=host.name,
            system="Darwin" if host.devices == "mps" else "Linux",
            hostname=host.name,
            home="/home/ml",
            cpu_count=8,
            interface=interface[host.name] or "eth0",
            address=host.address,
            addresses=((interface[host.name] or "eth0", host.address),),
            gpus=_gpus(host),
        )
        for host in inventory.hosts
    }


def _gpus(host: Host) -> tuple[Gpu, ...]:
    has_gpu = (
        re.search(r"gaming|windows-laptop|windows-tower|rtx|gtx|linux-gpu", host.name) and host.runtime == "docker"
    )
    return (Gpu(0, "GPU", f"GPU-{host.name}", 8 << 30, "550", "8.6"),) if has_gpu else ()


def test_all_five_are_there() -> None:
    assert [path.stem for path in FILES] == ["all-gpu", "cpu-only", "demo", "hybrid", "mixed-os"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_names_the_schema_first(path: Path) -> None:
    assert load_inventory(path).cluster.name == path.stem
    assert path.read_text().splitlines()[0] == "#:schema ./cluster.schema.json"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_follows_the_schema(path: Path) -> None:
    assert list(_violations(tomli.loads(path.read_text()), SCHEMA, path.stem)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_plan_can_be_made_of_it(path: Path) -> None:
    inventory = load_inventory(path)
    plan = make_plan(inventory, _facts(inventory), "20261123-034500-ab12")
    assert plan.world_size == len(inventory.hosts)
    assert plan.backend == ("nccl" if path.stem == "all-gpu" else "gloo")


def test_the_demo_is_simulated_on_this_machine_only() -> None:
    demo = load_inventory(CONFIGS / "demo.toml")
    assert [host.simulated_samples_per_second for host in demo.hosts] == [400, 200, 100]
    assert all(host.runtime == "process" and host.is_loopback for host in demo.hosts)


def test_only_the_demo_is_simulated() -> None:
    for path in FILES:
        simulated = any(host.simulated_samples_per_second for host in load_inventory(path).hosts)
        assert simulated == (path.stem == "demo")


def test_the_stored_schema_is_the_current_one() -> None:
    stored = (CONFIGS / "cluster.schema.json").read_text(encoding="utf-8")
    assert stored == json_schema() + "\n", "python -m remote.inventory --schema > configs/cluster.schema.json"


def test_the_command_prints_the_schema() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "remote.inventory", "--schema"], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == json_schema() + "\n"
    assert ran.stderr == ""


def test_every_key_of_the_schema_has_a_help_text() -> None:
    for name, table in [("Inventory", SCHEMA), *SCHEMA["$defs"].items()]:
        for key, entry in table["properties"].items():
            assert entry.get("description"), f"{name}.{key}"


def test_the_checker_of_this_test_finds_violations() -> None:
    broken = {"cluster": {"name": "a b", "port": 0, "backend": "x", "y": 1}, "hosts": []}
    found = "\n".join(_violations(broken, SCHEMA, "broken"))
    for key in ("name", "port", "backend", ".y", "hosts"):
        assert key in found
    assert "hosts" in "\n".join(_violations({"cluster": {"name": "a"}}, SCHEMA, "broken"))


def _violations(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    """Check the part of JSON Schema that the generated schema uses."""
    if "$ref" in schema:
        return _violations(value, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], where)
    if "anyOf" in schema:
        branches = [_violations(value, branch, where) for branch in schema["anyOf"]]
        return [] if any(not branch for branch in branches) else [f"{where}: fits no branch"]
    found: list[str] = []
    kind = schema.get("type")
    types: dict[str, tuple[type, ...]] = {
        "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
        "boolean": (bool,), "null": (type(None),),
    }  # fmt: skip
    if kind and (not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{where}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is not one of {schema['enum']}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{where}: {value!r} does not match")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where}: {value!r} is too small")
    if len(value) < schema.get("minItems", 0) if isinstance(value, list) else False:
        found.append(f"{where}: too few")
    if isinstance(value, list) and "items" in schema:
        for position, each in enumerate(value):
            found += _violations(each, schema["items"], f"{where}[{position}]")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{where}.{key}: is missing" for key in schema.get("required", ()) if key not in value]
        rest = schema.get("additionalProperties", True)
        for key, each in value.items():
            if key in properties:
                found += _violations(each, properties[key], f"{where}.{key}")
            elif rest is False:
                found.append(f"{where}.{key}: unknown")
            elif isinstance(rest, dict):
                found += _violations(each, rest, f"{where}.{key}")
    return found

"""What kind of engine it is, as far as that decides how images go in and out."""

from __future__ import annotations

from remote.engine import Engine


async def uses_containerd(engine: Engine) -> bool:
    """Whether the engine keeps its images in containerd, where layers are found by digest and not by chain."""
    status = (await engine.info()).get("DriverStatus") or ()
    return any("containerd.snapshotter" in str(value) for pair in status for value in pair)

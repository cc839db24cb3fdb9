"""Failure modes no check looks for: what rules each of them out, or that nothing does yet."""

from __future__ import annotations

from collections.abc import Mapping

ELSEWHERE: Mapping[str, tuple[str, str]] = {
    "PF-04": ("Locked keychain", "Images come through the engine's API; no credential helper of the host is asked."),
    "PF-12": ("Container name taken", "Names carry the run id; only containers with our label are removed."),
    "PF-14": ("`-it` without a terminal", "No container is given a terminal."),
    "PF-15": ("Published ports on the host network", "No port is published."),
    "PF-23": ("Block-buffered output", "The plan sets PYTHONUNBUFFERED=1 for every rank."),
    "PF-51": ("Proxy variables", "Ranks talk over plain TCP, which no proxy variable touches."),
    "PF-60": ("Batch does not fit", "Each rank measures the largest micro-batch it can carry before training."),
    "PF-62": ("Weak GPU chosen", "Shares follow measured speed; name `devices` to choose yourself."),
    "PF-66": ("Missing worker", "Two-phase start: nobody trains before every rank has said hello."),
    "PF-70": ("Unequal steps per epoch", "The sampler gives every rank the same number of steps."),
    "PF-71": ("Model differs", "Same image, same torch, one argument list; parameters come from one rank."),
    "PF-72": ("Mismatched collectives", "Built-in workloads reduce through one reducer. Scripts: not looked for."),
}
"""Number → (what it is, who takes care of it)."""

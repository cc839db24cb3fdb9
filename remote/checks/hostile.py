"""What hosts said is part of every finding; nothing in it may reach a terminal as more than text."""

from __future__ import annotations

from dataclasses import replace

from remote.checks.model import Finding, Fix

MAX_REASON = 600
MAX_EVIDENCE = 20_000


def harmless(finding: Finding) -> Finding:
    """Return the finding with one short line as its reason and nothing but printable text anywhere."""
    return replace(
        finding,
        reason=_line(finding.reason)[:MAX_REASON],
        evidence="\n".join(map(_printable, finding.evidence[:MAX_EVIDENCE].splitlines())),
        fix=_harmless_fix(finding.fix) if finding.fix is not None else None,
    )


def _harmless_fix(fix: Fix) -> Fix:
    # A command with something unprintable in it would not be the command that is read: it is shown, but does not run.
    return replace(fix, text=_line(fix.text), commands=tuple(map(_line, fix.commands)))


def _line(text: str) -> str:
    return _printable(" ".join(text.split()))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\t" else "\N{REPLACEMENT CHARACTER}" for letter in text)

"""Writes docs/checks.md from the catalogue: ``python -m remote.checks.docs > docs/checks.md``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from remote.checks.catalogue import CATALOGUE
from remote.checks.elsewhere import ELSEWHERE
from remote.checks.model import Check

HEADER = """\
# The checklist

<!-- Written by `python -m remote.checks.docs > docs/checks.md`; a test compares them. -->

Before anything is launched, every host is asked what would make training fail or hang. Nothing on a host is changed
by a check. A fix is text first: you copy it, or let the app run it (`F`) once it has shown what will run where. All
hosts are asked at the same time; a host that does not answer delays nobody.

| verdict | means |
|---|---|
| ok | as it should be |
| warn | it will run, with a drawback |
| fail | it will not run |
| unknown | it could not be found out, and why; never taken for ok |
| skip | does not apply, or something it needs is not ok |

`hetero-tui check` ends with 0 when nothing fails and every check that blocks has an answer. A check that *warns*
never stands in the way.

The network checks are not guesses from firewall rules: a listener and a dialler run on every host, in the job's image
with the job's network, and every ordered pair exchanges data. The numbers (PF-…) are those of the failure modes a
check finds.
"""
FOOTER = """\
## Not looked for

| number | failure | why no check |
|---|---|---|"""


def render(catalogue: Sequence[Check] = CATALOGUE) -> str:
    """Return the page as Markdown."""
    rows = [
        f"| [`{check.id}`](#{check.id}) | {check.title} | {check.severity} | {check.scope} | {_names(check.needs)} |"
        for check in catalogue
    ]
    table = "\n".join(("| check | title | severity | asked per | needs |", "|---|---|---|---|---|", *rows))
    elsewhere = "\n".join(f"| {code} | {what} | {who} |" for code, (what, who) in ELSEWHERE.items())
    end = f"{FOOTER}\n{elsewhere}\n"
    return "\n".join((HEADER, table, "", *(_section(check) for check in catalogue), end))


def _section(check: Check) -> str:
    codes = f"\n\nFinds: {', '.join(check.codes)}." if check.codes else ""
    return f"## {check.id}\n\n**{check.title}.** {check.question}\n\nRemedy: {check.remedy}{codes}\n"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


if __name__ == "__main__":
    sys.stdout.write(render())

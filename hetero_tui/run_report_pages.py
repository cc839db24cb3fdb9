"""A report as one HTML page that needs nothing else, and as Markdown. Pure; everything a host said is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from hetero_tui import __version__
from hetero_tui.run_report import RunFigures
from hetero_tui.run_report_plots import Series, line_plot
from hetero_tui.run_report_tables import Table, comparison, tables, warning

RANKS_DRAWN: Final = 32
STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .5rem 0; display: block; overflow-x: auto; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--soft); } td.f { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.warning { border: 2px solid #d55e00; padding: .5rem 1rem; font-weight: 600; } .note { opacity: .75; }
figure { margin: 1rem 0; } figcaption { font-weight: 600; } svg { width: 100%; max-width: 60rem; height: auto; }
svg text { font-size: 11px; fill: currentColor; } .grid { stroke: var(--line); }
.legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem; border-radius: 2px; }
@media print {
  :root { color-scheme: light; } body { font-size: 9pt; max-width: none; margin: 0; }
  table { display: table; width: auto; font-size: 8pt; } th, td { padding: .1rem .3rem; overflow-wrap: anywhere; }
  td.f { white-space: normal; }
  .legend i { print-color-adjust: exact; } h1, h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
}
"""


def plots(runs: Sequence[RunFigures]) -> list[str]:
    """Return the figures: all runs together, then each rank of a single run."""
    several = len(runs) > 1
    names = [f"{each.run.run_id} {each.run.plan.policy}" if several else "all ranks" for each in runs]
    throughput = [Series(name, each.throughput, not several) for name, each in zip(names, runs, strict=True)]
    losses = [Series(name, each.loss, not several) for name, each in zip(names, runs, strict=True)]
    drawn = [
        line_plot("Throughput", throughput, x_name="step", y_name="samples/s", zero_based=True),
        line_plot("Loss of the global batch", losses, x_name="step", y_name=""),
    ]
    if not several:
        each_rank = [Series(f"rank {each.rank} {each.host}", each.rate.points()) for each in runs[0].ranks]
        title = "Each rank's part" + (f" (first {RANKS_DRAWN} ranks)" if len(each_rank) > RANKS_DRAWN else "")
        drawn.append(line_plot(title, each_rank[:RANKS_DRAWN], x_name="step", y_name="samples/s", zero_based=True))
    return drawn


def html_page(runs: Sequence[RunFigures]) -> str:
    """Return one page about one run, or one that compares several."""
    title = _title(runs)
    body = [f"<h1>{escape(title)}</h1>"]
    if told := warning(runs):
        body.append(f'<p class="warning">{escape(told)}</p>')
    if len(runs) > 1:
        body.append(_html_table(comparison(runs)))
    body += plots(runs)
    for each in runs:
        if len(runs) > 1:
            body.append(f"<h1>Run {escape(each.run.run_id)}</h1>")
        body += [_html_table(table) for table in tables(each)]
    body.append(f'<p class="note">hetero-tui {escape(__version__)}</p>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _title(runs: Sequence[RunFigures]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs compared"
    return f"Run {runs[0].run.run_id} of {runs[0].run.plan.cluster}"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in table.columns)
    cells = [" class=f" if table.is_figures(column) else "" for column in range(len(table.columns))]
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(cells, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    content = f"<table><tr>{head}</tr>{rows}</table>"
    return f"<h2>{escape(table.title)}</h2>{content if table.rows else '<p>none</p>'}{note}"


def markdown_page(runs: Sequence[RunFigures]) -> str:
    """Return the same without the plots."""
    lines = [f"# {_escaped(_title(runs))}", ""]
    if told := warning(runs):
        lines += [f"> **{_escaped(told)}**", ""]
    if len(runs) > 1:
        lines += _markdown_table(comparison(runs))
    for each in runs:
        if len(runs) > 1:
            lines += [f"# Run {_escaped(each.run.run_id)}", ""]
        for table in tables(each):
            lines += _markdown_table(table)
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(table: Table) -> list[str]:
    lines = [f"## {table.title}", ""]
    if not table.rows:
        return [*lines, "none", ""]
    rule = ["---:" if table.is_figures(column) else "---" for column in range(len(table.columns))]
    lines += [f"| {' | '.join(table.columns)} |", f"|{'|'.join(rule)}|"]
    lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in table.rows]
    return [*lines, "", *([_escaped(table.note), ""] if table.note else [])]


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, whatever it holds."""
    return "".join(f"\\{each}" if each in "\\`*_{}[]<>#|~!&" else each for each in text)
